"""One layout for all policies. It changes spaces, line ends and parentheses that are not needed, and nothing that counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.parser import parse_text
from holdfast_verdict.language.source import read_text
from holdfast_verdict.language.statements import INDENT, WIDTH, fact, lines_of
from holdfast_verdict.language.wording import name, names


def format_policy(text: str, file: str = "") -> str:
    """Returns a policy in the one layout, with all of its comments.

    Formatting again changes nothing, and the compiled policy stays the same. A comment within a statement moves above it.

    Args:
        text: The source.
        file: Its name, for messages.

    Raises:
        PolicyRefused: The text does not parse. What its names mean is not looked at.
    """
    source = read_text(text, file)
    tree = parse_text(source)
    return "".join(
        f"{line}\n" for line in _Layout(tree.text, _comments(tree.text)).block(tree.items, (0, len(tree.text)), "")
    )


@dataclass(frozen=True, slots=True)
class _Comment:
    text: str
    at: s.Span


def _comments(source: str) -> list[_Comment]:
    found: list[_Comment] = []
    position, quoted = 0, False
    while position < len(source):
        letter = source[position]
        if quoted and letter == "\\":
            position += 1
        elif letter == '"':
            quoted = not quoted
        elif letter == "#" and not quoted:
            end = source.find("\n", position)
            end = len(source) if end < 0 else end
            found.append(_Comment(source[position:end].rstrip(), (position, end)))
            position = end
        position += 1
    return found


Part = s.Item | s.UnitOf | s.YieldsOf | s.Name


class _Layout:
    """Lays out a source: its parts and comments, in the order in which they stand there."""

    def __init__(self, source: str, comments: Sequence[_Comment]) -> None:
        self._source = source
        self._comments = comments
        self._starts = [comment.at[0] for comment in comments]

    def _between(self, start: int, end: int) -> Sequence[_Comment]:
        return self._comments[bisect_right(self._starts, start - 1) : bisect_right(self._starts, end - 1)]

    def _follows(self, end: int, comment: _Comment) -> bool:
        """Says whether a comment stands behind something, on its line."""
        return "\n" not in self._source[end : comment.at[0]]

    def block(self, parts: Sequence[Part], within: s.Span, indent: str) -> list[str]:
        """Returns the lines of parts and of the comments around and in them."""
        lines: list[str] = []
        last = within[0]
        wide = False
        for part in [*parts, None]:
            start, end = part.at if part is not None else (within[1], within[1])
            outside = list(self._between(last, start))
            if lines and outside and self._follows(last, outside[0]):
                lines[-1] += f"  {outside.pop(0).text}"
            for comment in outside:
                lines += self._gap(last, comment.at[0], lines, wide)
                lines.append(indent + comment.text)
                last, wide = comment.at[1], False
            if part is None:
                break
            own, inside = self._part(part, indent)
            spread = isinstance(part, s.Role | s.ActionStatement) and len(own) > 1
            lines += self._gap(last, start, lines, wide or (spread and last != start and not outside))
            lines += [indent + comment.text for comment in inside] + own
            last, wide = end, spread
        return lines

    def _gap(self, last: int, start: int, lines: Sequence[str], wide: bool) -> list[str]:
        return [""] if lines and (wide or self._source.count("\n", last, start) > 1) else []

    def _part(self, part: Part, indent: str) -> tuple[list[str], Sequence[_Comment]]:
        """Returns the lines of a part, and the comments in it that move above it."""
        if isinstance(part, s.Role):
            head = f"role {name(part.name)}"
            head += f" extends {names(part.extends)}" if part.extends else ""
            return self._braced(
                part, head, part.extends[-1].at[1] if part.extends else part.name.at[1], part.statements, indent
            )
        if isinstance(part, s.ActionStatement):
            return self._braced(part, f"action {name(part.name)}", part.name.at[1], part.facts, indent)
        inside = self._between(*part.at)
        if isinstance(part, s.UnitOf | s.YieldsOf | s.Name):
            return [indent + fact(part)], inside
        return [indent + line for line in lines_of(part, WIDTH - len(indent))], inside

    def _braced(
        self, part: s.Role | s.ActionStatement, head: str, head_end: int, parts: Sequence[Part], indent: str
    ) -> tuple[list[str], Sequence[_Comment]]:
        opening = self._opening(head_end)
        moved = self._between(part.at[0], opening)
        within = (opening + 1, part.at[1] - 1)
        inside = list(self._between(*within))
        if not inside and not parts:
            return [f"{indent}{head} {{}}"], moved
        if not inside and len(parts) == 1 and isinstance(part, s.ActionStatement):
            (only,) = part.facts
            line = f"{indent}{head} {{ {fact(only)} }}"
            if len(line) <= WIDTH:
                return [line], moved
        first = f"{indent}{head} {{"
        if inside and not self._source[opening + 1 : inside[0].at[0]].strip(" \t"):
            first += f"  {inside[0].text}"
            within = (inside[0].at[1], within[1])
        return [first, *self.block(parts, within, indent + INDENT), f"{indent}}}"], moved

    def _opening(self, position: int) -> int:
        """Returns where the brace behind a head stands, comments passed over."""
        for comment in self._between(position, len(self._source)):
            brace = self._source.find("{", position, comment.at[0])
            if brace >= 0:
                return brace
            position = comment.at[1]
        return self._source.find("{", position)
