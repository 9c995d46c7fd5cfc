"""Parts of the syntax tree as text: the one way in which the formatter writes them."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_verdict.language import syntax as s

_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"})
_WORDS = {"starts": "starts with", "ends": "ends with", "contains": "contains"}
_GROUPED = 5
"""From how many digits on the thousands are set apart."""


def text(value: str) -> str:
    """Returns text in quotes."""
    return f'"{value.translate(_ESCAPES)}"'


def name(node: s.Name) -> str:
    """Returns a name, in quotes if it has to stand in them."""
    return text(node.text) if node.quoted else node.text


def names(nodes: Sequence[s.Name]) -> str:
    """Returns names with commas between them."""
    return ", ".join(map(name, nodes))


def number(node: s.Number) -> str:
    """Returns a number, its thousands set apart if it is long."""
    whole, point, rest = node.text.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):_}{point}{rest}" if len(digits) >= _GROUPED else node.text


def value(node: s.Value) -> str:
    """Returns a value."""
    if isinstance(node, s.Path):
        plain = node.parts[: len(node.parts) - node.keys]
        return ".".join(plain) + "".join(f"[{text(key)}]" for key in node.parts[len(plain) :])
    if isinstance(node, s.Call):
        return f"{node.name}({', '.join(map(value, node.arguments))})"
    if isinstance(node, s.Text):
        return text(node.value)
    return number(node) if isinstance(node, s.Number) else str(node.value).lower()


def member(node: s.Value | s.Range) -> str:
    """Returns a member of a list."""
    return f"{value(node.low)}..{value(node.high)}" if isinstance(node, s.Range) else value(node)


def members(node: s.Members) -> str:
    """Returns a list."""
    return f"[{', '.join(map(member, node.members))}]"


def matchers(node: s.Matchers) -> str:
    """Returns what stands behind `in`."""
    if isinstance(node, s.Members):
        return members(node)
    return value(node) if isinstance(node, s.Call) else name(node)


def who(node: s.Who) -> str:
    """Returns who consents or releases."""
    return f"{node.kind}({text(node.name)})"


def condition(node: s.Condition) -> str:
    """Returns a condition, with the parentheses that it needs and no other."""
    match node:
        case s.Joined():
            return f" {node.word} ".join(map(part, node.parts))
        case s.Negated():
            inner = condition(node.part)
            return f"not ({inner})" if isinstance(node.part, s.Joined | s.Negated | s.Between) else f"not {inner}"
        case s.Comparison():
            return f"{value(node.left)} {_WORDS.get(node.operator, node.operator)} {value(node.right)}"
        case s.Membership():
            return f"{value(node.value)} {node.operator.replace('_', ' ')} {matchers(node.matchers)}"
        case s.State():
            return f"{value(node.value)} is {name(node.word)}"
        case s.Between():
            return f"{value(node.value)} between {value(node.low)} and {value(node.high)}"
        case s.Quantified():
            return f"{node.word} {value(node.value)} as {name(node.name)}: ({condition(node.body)})"
        case s.Provenance():
            return f"{value(node.value)} {'only ' if node.only else ''}from {', '.join(map(_origin, node.origins))}"
        case s.RunHas():
            return f"run has {name(node.label)}"
        case s.Released():
            label = "" if node.label is None else f"{name(node.label)} "
            return f"{label}released by {who(node.who)}"
        case s.TimeIn():
            return _time(node)


def part(node: s.Condition) -> str:
    """Returns a condition as it stands beside `and` or `or`."""
    written = condition(node)
    return f"({written})" if isinstance(node, s.Joined | s.Between) else written


def _origin(node: s.Name | s.Call) -> str:
    return name(node) if isinstance(node, s.Name) else value(node)


def _time(node: s.TimeIn) -> str:
    words = [f"time in {text(node.zone.value)}"]
    if node.between is not None:
        words.append(f"between {node.between[0].text} and {node.between[1].text}")
    if node.days:
        spans = [first.text if first == last else f"{first.text}..{last.text}" for first, last in node.days]
        words.append(f"on {', '.join(spans)}")
    return " ".join(words)
