"""Conditions: syntax tree to compiled expressions, with everything refused that could not be true, or reads as what it is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_verdict.expressions import COMPARISONS, MAX_EXPRESSION_DEPTH, ORIGIN_KINDS, TRUE, Expr, Matcher, is_action
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.declarations import ROOTS, meant
from holdfast_verdict.language.shapes import UNKNOWN, Shape
from holdfast_verdict.language.values import WRONG, Matchers, Typed, Values, zone_of

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z|24:00\Z")
_STATES: Final = ("present", "absent", "empty")
_ORDER: Final = ("<", "<=", ">", ">=")
_MAX_DEPTH: Final = MAX_EXPRESSION_DEPTH - 8
"""What rules put around a condition, and what a condition becomes, adds some levels."""


def both(*parts: Expr) -> Expr:
    """Returns what is true if all parts are."""
    flat = [each for part in parts if part != TRUE for each in (part[1:] if part[0] == "and" else (part,))]
    return TRUE if not flat else flat[0] if len(flat) == 1 else ("and", *flat)  # type: ignore[return-value]  # parts of an `and` are expressions


@dataclass(frozen=True, slots=True)
class Conditions:
    """Compiles the conditions of one rule.

    Attributes:
        values: Compiles its values.
        grants: Whether an action is more likely to be allowed if the condition is true.
        depth: How deep the condition stands.
        labels: The labels that the rule's own `run has` and `from` speak of, for `released by`.
    """

    values: Values
    grants: bool
    depth: int = 0
    labels: tuple[str, ...] = ()

    def _wrong(self, message: str, at: s.Span, remedy: str = "", expected: Sequence[str] = ()) -> Expr:
        self.values.declared.problems.add(message, at, remedy, expected)
        return TRUE

    def guard(self, guard: s.Guard) -> Expr:
        """Returns a rule's `where` and `unless` as one expression."""
        named = replace(self, labels=tuple(dict.fromkeys(_labels_in(guard.where))))
        where = TRUE if guard.where is None else named.of(guard.where)
        if guard.unless is None:
            return where
        # the positive facts of `where` hold where `unless` is asked
        other = named._with_guards([] if guard.where is None else [guard.where])
        return both(where, ("not", replace(other, grants=not self.grants).of(guard.unless)))

    def of(self, node: s.Condition) -> Expr:
        """Returns a condition's expression; what is wrong with it is noted."""
        if self.depth > _MAX_DEPTH:
            return self._wrong(f"The condition is nested deeper than {_MAX_DEPTH}.", node.at)
        match node:
            case s.Joined():
                return self._joined(node)
            case s.Negated():
                return ("not", replace(self, grants=not self.grants, depth=self.depth + 1).of(node.part))
            case s.Comparison():
                return self._comparison(node)
            case s.Membership():
                return self._membership(node)
            case s.State():
                return self._state(node)
            case s.Between():
                low = self._compared(">=", node.value, node.low, node.at)
                return both(low, self._compared("<=", node.value, node.high, node.at))
            case s.Quantified():
                return self._quantified(node)
            case s.Provenance():
                return self._provenance(node)
            case s.RunHas():
                return ("run_has", self.values.declared.label(node.label))
            case s.Released():
                return self._released(node)
            case s.TimeIn():
                return self._time(node)

    # --- and, or

    def _joined(self, node: s.Joined) -> Expr:
        asked = self._with_guards([part for part in node.parts if _asks_presence(part, node.word)])
        inner = replace(self, depth=self.depth + 1)
        guarded = replace(asked, depth=self.depth + 1)
        parts = [(inner if _asks_presence(part, node.word) else guarded).of(part) for part in node.parts]
        flat: list[object] = []
        for part in parts:
            flat += part[1:] if part[0] == node.word else [part]
        return (node.word, *flat)

    def _with_guards(self, parts: Sequence[s.Condition]) -> Conditions:
        """Returns the same, where the arguments that these parts ask for are known to be present."""
        paths = set()
        for part in parts:
            for each in part.parts if isinstance(part, s.Joined) and part.word == "and" else (part,):
                inner = each.part if isinstance(each, s.Negated) else each
                if isinstance(inner, s.State) and isinstance(inner.value, s.Path) and inner.value.parts[0] == "args":
                    paths.add(inner.value.parts[1:])
        return replace(self, values=replace(self.values, guarded=self.values.guarded | paths))

    # --- comparisons

    def _comparison(self, node: s.Comparison) -> Expr:
        if node.operator in COMPARISONS:
            return self._compared(node.operator, node.left, node.right, node.at)
        left, right = self.values.value(node.left), self.values.value(node.right)
        if WRONG in (left, right):
            return TRUE
        if left.shape.literal:
            return self._wrong("What is asked about stands first, and is no constant.", node.at)
        holders = ("text", "list") if node.operator == "contains" else ("text",)
        if not left.shape.may_be(*holders):
            return self._wrong(f"This is {left.shape.says()}.", node.left.at, "Only text and lists hold something.")
        members = left.shape.members
        if (
            node.operator == "contains"
            and left.shape.is_only("list")
            and members
            and not members.kinds & right.shape.kinds
        ):
            return self._wrong(f"This is {right.shape.says()}, and the list is of {members.says()}.", node.right.at)
        if not left.shape.may_be("list") or node.operator != "contains":
            if not right.shape.may_be("text"):
                return self._wrong(f"This is {right.shape.says()}, not text.", node.right.at)
            if right.value == ("text", ""):
                return self._wrong("Every text begins, ends and goes on with nothing.", node.right.at)
        return (node.operator, left.value, right.value)

    def _compared(self, operator: str, left_node: s.Value, right_node: s.Value, at: s.Span) -> Expr:
        left, right = self.values.value(left_node), self.values.value(right_node)
        if WRONG in (left, right):
            return TRUE
        if left.shape.literal and right.shape.literal:
            return self._wrong("This compares two constants.", at)
        if operator not in _ORDER and (self._is_pattern(left_node) or self._is_pattern(right_node)):
            remedy = 'Write `in ["…*"]` for a pattern, or `exactly("…")` for the character.'
            return self._wrong(f"`*` is no pattern behind `{operator}`.", at, remedy)
        if self._is_money(left) or self._is_money(right):
            left, right = self.values.as_money(left, left_node.at), self.values.as_money(right, right_node.at)
            return (operator, left.value, right.value)
        if not left.shape.kinds & right.shape.kinds:
            message = f"This compares {left.shape.says()} with {right.shape.says()}."
            return self._wrong(message, at)
        if operator in _ORDER:
            problem = _not_ordered(left.shape, right.shape)
            if problem:
                return self._wrong(problem, at)
        self._check_choice(left.shape, right.shape, at)
        return (operator, left.value, right.value)

    @staticmethod
    def _is_pattern(node: s.Value) -> bool:
        return isinstance(node, s.Text) and "*" in node.value

    def _is_money(self, typed: Typed) -> bool:
        if typed.shape.is_only("money"):
            return True
        path = tuple(str(part) for part in typed.value[1:])
        units = self.values.units(path) if typed.value[0] == "arg" else {typed.shape.unit}
        return units != {""} and typed.shape.may_be("number")

    def _check_choice(self, left: Shape, right: Shape, at: s.Span) -> None:
        for shape, other in ((left, right), (right, left)):
            if (
                shape.choices
                and not shape.literal
                and other.literal
                and other.is_only("text")
                and shape.is_only("text")
            ):
                (text,) = other.choices
                if text not in shape.choices:
                    listed = [f'"{choice}"' for choice in sorted(shape.choices)]
                    self._wrong(f'It is never "{text}".', at, meant(text, shape.choices), listed[:12])

    # --- membership

    def _membership(self, node: s.Membership) -> Expr:
        typed = self.values.value(node.value)
        matchers = Matchers(self.values).of(node.matchers)
        if typed is WRONG or not matchers:
            return TRUE
        if typed.shape.literal:
            return self._wrong("What is asked about stands first, and is no constant.", node.value.at)
        single = node.operator in ("in", "not_in")
        if single and typed.shape.is_only("list"):
            return self._wrong("This is a list.", node.value.at, "Write `all in`, `any in` or `none in`.")
        asked = typed.shape if single else self._member_shape(typed.shape)
        money = [shape for _, shape, _ in matchers if shape.is_only("money")]
        if money or asked.unit:
            if len(money) < len(matchers):
                return self._wrong("Amounts of money and other things stand in one list.", node.at, "Write `usd(…)`.")
            if not single:
                remedy = "Write `every args.amounts as amount: (amount <= usd(…))`."
                return self._wrong("Lists of amounts are asked one by one.", node.at, remedy)
            typed = self.values.as_money(typed, node.value.at)
            asked = typed.shape
        self._check_members(asked, matchers)
        operator = "in" if single else node.operator
        found: Expr = (operator, typed.value, tuple(matcher for matcher, _, _ in matchers))
        return ("not", found) if node.operator == "not_in" else found

    @staticmethod
    def _member_shape(shape: Shape) -> Shape:
        return shape.members or UNKNOWN if shape.may_be("list") else shape

    def _check_members(self, asked: Shape, matchers: Sequence[tuple[Matcher, Shape, s.Span]]) -> None:
        for matcher, shape, at in matchers:
            if not asked.kinds & shape.kinds:
                self._wrong(f"This is {shape.says()}, and what is asked about is {asked.says()}.", at)
            elif matcher[0] == "is":
                self._check_choice(asked, shape, at)

    # --- states, lists

    def _state(self, node: s.State) -> Expr:
        if node.word.text not in _STATES:
            remedy = meant(node.word.text, _STATES) or "A value is compared by `==`."
            expected = [f"`is {state}`" for state in _STATES]
            return self._wrong(f"`is {node.word.text}` asks nothing.", node.word.at, remedy, expected)
        asking = self._with_guards([node]) if node.word.text != "empty" else self
        typed = asking.values.value(node.value)
        if typed is WRONG:
            return TRUE
        if typed.value[0] not in ("arg", "var"):
            return self._wrong("This is always present.", node.value.at, "Ask about an argument, or a part of one.")
        if node.word.text == "empty":
            if not typed.shape.may_be("text", "list", "object"):
                return self._wrong(f"This is {typed.shape.says()}.", node.value.at)
            measure = "chars" if typed.shape.is_only("text") else "size"
            return ("==", (measure, typed.value), ("int", 0))
        present: Expr = ("present", typed.value)
        return present if node.word.text == "present" else ("not", present)

    def _quantified(self, node: s.Quantified) -> Expr:
        typed = self.values.value(node.value)
        name = node.name.text
        if name in self.values.bound or name in ROOTS or name in self.values.declared.sets:
            return self._wrong(f"`{name}` means something else already.", node.name.at, "Choose another name.")
        if typed is not WRONG and (typed.shape.literal or not typed.shape.may_be("list")):
            return self._wrong(f"`{node.word}` goes over a list; this is {typed.shape.says()}.", node.value.at)
        bound = {**self.values.bound, name: typed.shape.members or UNKNOWN}
        inner = replace(self, values=replace(self.values, bound=bound), depth=self.depth + 1)
        return (node.word, typed.value, name, inner.of(node.body))

    # --- information flow

    def _provenance(self, node: s.Provenance) -> Expr:
        typed = self.values.value(node.value)
        if typed is WRONG:
            return TRUE
        if typed.value[0] not in ("arg", "var"):
            return self._wrong("Only arguments have sources.", node.value.at)
        origins = [self._origin(origin, only=node.only) for origin in node.origins]
        if len(set(origins)) < len(origins):
            return self._wrong("An origin stands here twice.", node.at)
        if node.only:
            return ("only_from", typed.value, tuple(origins))
        if origins == ["user"]:
            return ("from", typed.value, "user")
        if "user" in origins:
            return self._wrong(
                "`from user` asks about every part, `from` anything else about any: together they read as what they are not.",
                node.at,
                "Write `only from user, …`.",
            )
        if self.grants:
            return self._wrong(
                "Here an action is allowed for what *any part* of the value comes from; the rest could be anybody's.",
                node.at,
                'Write `only from`, with `user`, `model` or `tool("name")`.',
            )
        found = [("from", typed.value, origin) for origin in origins]
        return found[0] if len(found) == 1 else ("or", *found)

    def _origin(self, origin: s.Name | s.Call, *, only: bool) -> object:
        if isinstance(origin, s.Call):
            (text, *more) = origin.arguments or (None,)
            if origin.name != "tool" or more or not isinstance(text, s.Text) or not is_action(text.value):
                return self._wrong("This is no origin.", origin.at, 'Such as `tool("web.fetch")`, `tool("crm.*")`.')
            self.values.declared.pattern(s.Name(text.value, text.at))
            return ("tool", text.value)
        if origin.text in ORIGIN_KINDS:
            return origin.text
        if only:
            remedy = 'Write `only from user`, `model`, `tool`, `tool("name")`.'
            return self._wrong(f"`{origin.text}` is a label: nothing comes only from it.", origin.at, remedy)
        return self.values.declared.label(origin)

    def _released(self, node: s.Released) -> Expr:
        if node.who.kind != "role":
            return self._wrong("A label is released by people of a role.", node.who.at, 'Write `role("…")`.')
        if node.label is not None:
            label = self.values.declared.label(node.label)
        elif len(self.labels) == 1:
            (label,) = self.labels
        else:
            remedy = 'Name it: `secret released by role("…")`.'
            return self._wrong("It is not clear which label is released.", node.at, remedy)
        return ("released", label, node.who.name)

    # --- time

    def _time(self, node: s.TimeIn) -> Expr:
        zone = zone_of(node.zone, self.values.declared)
        parts: list[Expr] = []
        if node.between is not None:
            first, last = (self._minute(clock) for clock in node.between)
            if first >= last:
                remedy = 'Over midnight, write `not time in "…" between 06:00 and 22:00`.'
                return self._wrong("The time ends before it begins.", node.at, remedy)
            now = ("local", zone, "minute_of_day")
            parts += [(">=", now, ("int", first)), ("<", now, ("int", last))]
        if node.days:
            parts.append(("in", ("local", zone, "weekday"), tuple(self._days(*span) for span in node.days)))
        if not parts:
            return self._wrong("This says no time.", node.at, "Add `between 09:00 and 18:00`, `on mon..fri`, or both.")
        return both(*parts)

    def _minute(self, clock: s.Name) -> int:
        if not _CLOCK.match(clock.text):
            self._wrong("There is no such time of day.", clock.at)
            return 0
        return int(clock.text[:2]) * 60 + int(clock.text[3:])

    def _days(self, first: s.Name, last: s.Name) -> Matcher:
        for day in (first, last):
            if day.text not in DAYS:
                self._wrong(f"`{day.text}` is no day.", day.at, meant(day.text, DAYS), DAYS)
                return ("is", ("int", 1))
        low, high = DAYS.index(first.text) + 1, DAYS.index(last.text) + 1
        if low > high:
            self._wrong("The week begins on Monday.", (first.at[0], last.at[1]), "Write two: `sat..sun, mon`.")
        return ("is", ("int", low)) if low == high else ("range", ("int", low), ("int", high))


def _not_ordered(left: Shape, right: Shape) -> str:
    if left.may_be("number", "money") and right.may_be("number", "money"):
        return ""
    if left.may_be("text") and right.may_be("text"):
        for shape, other in ((left, right), (right, left)):
            if shape.literal and not shape.date:
                return 'Only numbers, money and dates such as "2026-12-31" are larger or smaller.'
            if shape.known and not shape.literal and not shape.date and not other.literal:
                return "Only numbers, money and dates are larger or smaller."
        return ""
    return f"This compares {left.says()} with {right.says()}; only numbers, money and dates are larger or smaller."


def _asks_presence(node: s.Condition, word: str) -> bool:
    """Says whether a part of an `and` (an `or`) makes its other parts be asked only where an argument is present."""
    if isinstance(node, s.Negated):
        return _asks_presence(node.part, "or" if word == "and" else "and")
    return isinstance(node, s.State) and node.word.text == ("present" if word == "and" else "absent")


def _labels_in(node: s.Condition | None) -> list[str]:
    match node:
        case s.Joined():
            return [label for part in node.parts for label in _labels_in(part)]
        case s.Negated():
            return _labels_in(node.part)
        case s.Quantified():
            return _labels_in(node.body)
        case s.RunHas():
            return [node.label.text]
        case s.Provenance():
            named = [origin.text for origin in node.origins if isinstance(origin, s.Name)]
            return [label for label in named if label not in ORIGIN_KINDS]
        case _:
            return []
