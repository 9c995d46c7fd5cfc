"""What is wrong with a policy, all of it at once: where, what was expected, how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: Stable dotted code, such as `policy.syntax`.
        message: What is wrong, in one sentence.
        line: Line of the source, from 1; 0 if it has none.
        column: Column of the source in characters, from 1; 0 if it has none.
        end_column: Column behind the last marked character.
        shown: The source's line as it stands there.
        expected: What could have stood there.
        remedy: How to mend it, or empty.
        path: Place in a compiled form, such as `$.rules[2].when`; empty for a source.
        file: Name of the source, as it was given.
    """

    code: str
    message: str
    line: int = 0
    column: int = 0
    end_column: int = 0
    shown: str = ""
    expected: tuple[str, ...] = ()
    remedy: str = ""
    path: str = ""
    file: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns the problem as an object, for machines."""
        return {
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "end_column": self.end_column,
            "shown": self.shown,
            "expected": list(self.expected),
            "remedy": self.remedy,
            "path": self.path,
        }

    def __str__(self) -> str:
        """Returns the problem as people read it: place, message, the line with a mark under it, remedy."""
        if not self.line:
            place = f"{self.file or 'policy'}{': ' + self.path if self.path else ''}"
            return f"{place}: {self.message}{f' {self.remedy}' if self.remedy else ''}"
        lines = [f"{self.file or 'policy'}:{self.line}:{self.column}: {self.message}"]
        if self.shown:
            margin = f"{self.line:>5} | "
            mark = "^" * max(1, self.end_column - self.column)
            lines.append(margin + self.shown)
            lines.append(" " * (len(margin) - 2) + "| " + " " * (self.column - 1) + mark)
        if self.expected:
            lines.append(f"      expected {_listed(self.expected)}")
        if self.remedy:
            lines.append(f"      {self.remedy}")
        return "\n".join(lines)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


class PolicyRefused(ValueError):
    """A policy is not well-formed or not well-typed; nothing of it may be used.

    Attributes:
        problems: Everything that was found, in the order of the source; never empty.
    """

    code = "policy.refused"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
