"""What a policy declares — roles, sets, actions — and what its catalogue knows: the names that statements may use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from holdfast_verdict.actions.kinds import KINDS, WORDS
from holdfast_verdict.expressions import MONEY_UNITS, ORIGIN_KINDS, is_action, is_name
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.shapes import UNKNOWN, Catalogue, Shape, joined, shape_of
from holdfast_verdict.language.source import MAX_PROBLEMS, Text
from holdfast_verdict.problems import PolicyRefused, Problem

ROOTS: Final = ("args", "principal", "estimate", "model")
_UNIT_WORDS: Final = {("usd",): "usd", ("usd", "cents"): "usd_cents", ("nano_usd",): "nano_usd"}
NOTHING: Final = "nothing"
"""What an output yields that is trusted: no label at all."""
UNTRUSTED: Final = "untrusted"
"""The label that outputs from outside carry, whatever is declared."""


class Problems:
    """Collects what is wrong, in the source's own words."""

    def __init__(self, source: Text) -> None:
        self._source = source
        self.found: list[Problem] = []

    def add(self, message: str, at: s.Span, remedy: str = "", expected: Sequence[str] = ()) -> None:
        """Notes a problem."""
        if len(self.found) >= MAX_PROBLEMS:
            return
        problem = self._source.problem("policy.meaning", message, at, remedy=remedy, expected=expected)
        if problem not in self.found:
            self.found.append(problem)

    def line_of(self, at: s.Span) -> int:
        """Returns the line of a place."""
        return self._source.line_of(at[0])

    def raise_any(self) -> None:
        """Raises `PolicyRefused` with all that was noted, if anything was."""
        if self.found:
            ordered = sorted(self.found, key=lambda problem: (problem.line, problem.column))
            raise PolicyRefused(ordered)


def meant(word: str, known: Iterable[str]) -> str:
    """Returns `Did you mean …?`, or nothing."""
    close = get_close_matches(word, sorted(known), 1, cutoff=0.7)
    return f"Did you mean `{close[0]}`?" if close else ""


@dataclass(slots=True)
class Declared:
    """What statements may name.

    Attributes:
        problems: Where wrong names are noted.
        roles: Every role, with all the roles it extends, nearest first.
        sets: Every set.
        actions: Shape of each known action's arguments, by name.
        kinds: The same of the kinds of action that there are besides tools; they may be named though no catalogue has them.
        complete: Whether `actions` is all there is: a catalogue was given.
        externals: The known actions that leave the tenant's boundary.
        external: What the policy itself says of them.
        units: Units that the policy declares, by action and path.
        labels: Every label that anything yields.
    """

    problems: Problems
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, s.SetStatement] = field(default_factory=dict)
    actions: dict[str, Shape] = field(default_factory=dict)
    kinds: dict[str, Shape] = field(default_factory=dict)
    complete: bool = False
    externals: set[str] = field(default_factory=set)
    external: dict[str, bool] = field(default_factory=dict)
    units: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)

    def pattern(self, name: s.Name) -> str:
        """Returns an action's pattern as the compiled form has it; notes what is wrong with it."""
        if not is_action(name.text) or (name.quoted and (name.text in WORDS or name.text.endswith("*"))):
            self.problems.add(f"{name.text!r} can name no action.", name.at, "Patterns stand without quotes.")
            return "*"
        if name.text in (*WORDS, "*") or not self.complete:
            return name.text
        if not self.matched(name.text):
            what = "No action matches" if name.text.endswith("*") else "There is no action"
            self.problems.add(f"{what} `{name.text}`.", name.at, meant(name.text, [*self.actions, *self.kinds]))
        return name.text

    def matched(self, pattern: str) -> list[str]:
        """Returns the known actions that a pattern matches."""
        if pattern == "external":
            return sorted(self.externals)
        if pattern == "tools":
            return [action for action in self.actions if action not in KINDS]
        if pattern in self.kinds:
            return [pattern]
        return [action for action in self.actions if matches(pattern, action)]

    def shape(self, action: str) -> Shape:
        """Returns the shape of an action's arguments."""
        return self.actions.get(action) or self.kinds.get(action, UNKNOWN)

    def label(self, name: s.Name, *, yielded: bool = False) -> str:
        """Returns a label; notes what is wrong with it."""
        if name.text in ORIGIN_KINDS or name.text == "constant":
            self.problems.add(f"`{name.text}` is an origin, not a label.", name.at)
        elif name.text == NOTHING:
            self.problems.add("`nothing` is no label, and stands alone behind `yields`.", name.at)
        elif not yielded and self.complete and name.text not in self.labels:
            remedy = meant(name.text, self.labels) or f"Say which action yields it: `label NAME yields {name.text}`."
            self.problems.add(f"No action yields `{name.text}`.", name.at, remedy)
        return name.text


def matches(pattern: str, action: str) -> bool:
    """Says whether a name or `prefix*` matches an action."""
    return action.startswith(pattern[:-1]) if pattern.endswith("*") else action == pattern


def declare(items: Sequence[s.Item], catalogue: Catalogue | None, problems: Problems) -> Declared:
    """Reads all declarations of a policy; what is wrong with them is noted in `problems`."""
    declared = Declared(problems, complete=catalogue is not None)
    if catalogue is not None:
        for name, action in catalogue.types.items():
            declared.actions[name] = shape_of(action.parameters)
            if action.external:
                declared.externals.add(name)
            declared.labels |= set(_labels_of(action.yields))
        declared.labels.add(UNTRUSTED)
        missing = {name: entry["parameters"] for name, entry in KINDS.items() if name not in catalogue.types}
        declared.kinds = {name: shape_of(parameters) for name, parameters in missing.items()}
    _declare_roles([item for item in items if isinstance(item, s.Role)], declared)
    for item in items:
        if isinstance(item, s.SetStatement):
            _declare_set(item, declared)
        elif isinstance(item, s.ActionStatement):
            _declare_action(item, declared)
        elif isinstance(item, s.LabelStatement):
            declared.labels |= {label.text for label in item.labels}
    return declared


def _labels_of(yields: object) -> Iterator[str]:
    if isinstance(yields, Mapping):
        for labels in yields.values():
            yield from _labels_of(labels)
    elif isinstance(yields, str):
        yield yields
    elif isinstance(yields, Iterable):
        for label in yields:
            yield from _labels_of(label)


def _fresh(name: s.Name, taken: Iterable[str], what: str, problems: Problems) -> bool:
    if name.text in taken:
        problems.add(f"There is a {what} `{name.text}` already.", name.at, "Give this one another name.")
        return False
    if not is_name(name.text):
        what = f"`{name.text}` is no name." if name.quoted else f"`{name.text}` is too long for a name."
        problems.add(what, name.at)
        return False
    return True


def _declare_roles(roles: Sequence[s.Role], declared: Declared) -> None:
    parents: dict[str, list[str]] = {}
    for role in roles:
        if _fresh(role.name, parents, "role", declared.problems):
            parents[role.name.text] = []
    for role in roles:
        for parent in role.extends:
            if parent.text not in parents:
                declared.problems.add(f"There is no role `{parent.text}`.", parent.at, meant(parent.text, parents))
            elif parent.text in parents[role.name.text]:
                declared.problems.add(f"`{parent.text}` stands here twice.", parent.at)
            elif role.name.text in (parent.text, *_ancestors(parent.text, parents)):
                declared.problems.add(f"`{parent.text}` extends `{role.name.text}` itself.", parent.at)
            else:
                parents[role.name.text].append(parent.text)
    declared.roles = {name: tuple(_ancestors(name, parents)) for name in parents}


def _ancestors(name: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    found: dict[str, None] = {}
    left = list(parents[name])
    while left:
        parent = left.pop(0)
        if parent not in found:
            found[parent] = None
            left = [*parents[parent], *left]
    return list(found)


def _declare_set(item: s.SetStatement, declared: Declared) -> None:
    if item.name.text in ROOTS:
        declared.problems.add(f"`{item.name.text}` means something else already.", item.name.at)
    elif _fresh(item.name, declared.sets, "set", declared.problems):
        declared.sets[item.name.text] = item


def _declare_action(item: s.ActionStatement, declared: Declared) -> None:
    name, problems = item.name.text, declared.problems
    declared.pattern(item.name)
    if not declared.complete:
        declared.actions.setdefault(name, UNKNOWN)
    for fact in item.facts:
        if isinstance(fact, s.YieldsOf):
            declared.labels |= {label.text for label in fact.labels}
        elif isinstance(fact, s.Name):
            if fact.text not in ("external", "internal"):
                remedy = meant(fact.text, ("external", "internal"))
                problems.add(f"`{fact.text}` says nothing of an action.", fact.at, remedy, ("external", "internal"))
            elif name in declared.external:
                problems.add(f"Of `{name}` it is said already whether it is external.", fact.at)
            else:
                declared.external[name] = fact.text == "external"
                (declared.externals.add if declared.external[name] else declared.externals.discard)(name)
        else:
            _declare_unit(name, fact, declared)


def _declare_unit(action: str, fact: s.UnitOf, declared: Declared) -> None:
    problems = declared.problems
    unit = _UNIT_WORDS.get(tuple(word.text for word in fact.words))
    if not isinstance(fact.value, s.Path) or fact.value.parts[0] != "args" or len(fact.value.parts) == 1:
        problems.add("Here stands an argument, such as `args.amount`.", fact.value.at)
        return
    path = fact.value.parts[1:]
    shape = declared.actions.get(action, UNKNOWN)
    if unit is None:
        problems.add("This is no unit.", fact.words[0].at, expected=("`usd`", "`usd cents`", "`nano_usd`"))
    elif (action, path) in declared.units:
        problems.add("The unit of this argument is declared already.", fact.at)
    else:
        declared.units[action, path] = unit
        found = resolve(shape, path)
        if declared.complete and found is None:
            problems.add(f"`{action}` has no argument `{'.'.join(path)}`.", fact.value.at, meant(path[0], shape.fields))
        elif found is not None and not found.may_be("number"):
            problems.add(f"`{'.'.join(path)}` is {found.says()}, not a number.", fact.value.at)
        elif found is not None and found.unit and found.unit != unit:
            problems.add(f"The schema says `{found.unit}`, and this says `{unit}`.", fact.at, "Take one of them out.")


def resolve(shape: Shape, path: Sequence[str]) -> Shape | None:
    """Returns the shape of what stands at a path; `None` if a schema says that nothing can."""
    for number, part in enumerate(path):
        if not shape.known:
            return UNKNOWN
        if part in shape.fields:
            shape = shape.fields[part]
        elif number and shape.may_be("object") and not shape.fields:
            return UNKNOWN
        else:
            return None
    return shape


def argument(declared: Declared, action: str, path: tuple[str, ...]) -> Shape | None:
    """Returns the shape of an action's argument, with its declared unit."""
    found = resolve(declared.shape(action), path)
    unit = declared.units.get((action, path), "" if found is None else found.unit)
    if found is None or unit not in MONEY_UNITS:
        return found
    return joined([Shape(found.kinds, found.known, unit, found.choices, members=found.members, fields=found.fields)])
