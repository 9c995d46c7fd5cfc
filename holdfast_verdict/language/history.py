"""What a rule has to remember: preconditions, counts and sums over the past become watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast, get_args

from holdfast_verdict.canonical import MAX_INTEGER
from holdfast_verdict.expressions import TRUE, Expr, Value
from holdfast_verdict.language import syntax as s
from holdfast_verdict.language.conditions import Conditions
from holdfast_verdict.language.declarations import Declared, Problems, meant
from holdfast_verdict.language.values import WRONG, Values
from holdfast_verdict.policy import MAX_SPAN_MS, Event, Keep, Per, Watch

_MS_OF: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SCOPES: Final = get_args(Per)
_NOT_ALONE: Final = ("from", "only_from", "run_has", "released")


def span_of(duration: s.Duration, problems: Problems) -> int:
    """Returns a duration in milliseconds."""
    digits = duration.text.rstrip("mshd")
    span = int(digits) * _MS_OF[duration.text[len(digits) :]] if len(digits) <= 15 else MAX_SPAN_MS + 1  # noqa: PLR2004 (far beyond)
    if not 0 < span <= MAX_SPAN_MS:
        problems.add("A duration is more than nothing, and at most 366d.", duration.at)
        return 1
    return span


@dataclass(slots=True)
class Watches:
    """Gathers the watches of a policy; the same watch is kept once.

    Attributes:
        declared: All names there are.
        found: The watches.
    """

    declared: Declared
    found: list[Watch] = field(default_factory=list)

    def before(self, past: s.Past, present: tuple[s.Name, ...], *, precondition: bool) -> str:
        """Returns the watch of `requires …` (a precondition) or of `after …`.

        A precondition looks at outcomes: that something was asked for proves nothing. What stands against an action looks at
        requests, so that two in parallel cannot pass each other, unless the policy says `succeeded`.
        """
        if precondition and past.event is not None and past.event.text == "requested":
            self.declared.problems.add(
                "What is required has to have succeeded: a request proves nothing.", past.event.at, "Write `succeeded`."
            )
        event: Event = "succeeded" if precondition or (past.event and past.event.text == "succeeded") else "requested"
        where = self._where(past.actions, past.guard, past.at)
        return self._add(past.actions, where, event, "last", None, past.reach, present, doubt=not precondition)

    def count(self, node: s.AtMost) -> str:
        """Returns the watch of `at most …`: requests, whatever became of them."""
        where = self._where(node.actions, node.guard, node.at)
        return self._add(node.actions, where, "requested", "count", None, node.reach, node.actions, doubt=True)

    def total(self, node: s.Total) -> Expr:
        """Returns the question of `sum(…) of …`."""
        values = Values(self.declared, tuple(self.declared.pattern(name) for name in node.actions), {})
        of, ceiling, _ = self.sum_of(values, node.of, node.ceiling)
        where = self._where(node.actions, node.guard, node.at)
        watch = self._add(node.actions, where, "requested", "sum", of, node.reach, node.actions, doubt=True)
        return ("sum<=", watch, of, ceiling)

    def sum_of(self, values: Values, of: s.Value, ceiling: s.Value) -> tuple[Value, int, bool]:
        """Returns the value to be summed up, the ceiling, and whether they are money."""
        summed, most = values.value(of), values.value(ceiling)
        if WRONG in (summed, most):
            return ("int", 0), 0, False
        problems = self.declared.problems
        if summed.value[0] not in ("arg", "estimate") or not summed.shape.may_be("number", "money"):
            problems.add("A sum is over a number among the arguments.", of.at, "Such as `sum(args.amount)`.")
        if most.value[0] == "money":
            summed = values.as_money(summed, of.at)
        elif most.value[0] != "int":
            problems.add("A ceiling is a whole number, or `usd(…)`.", ceiling.at)
        elif summed.shape.unit or summed.shape.is_only("money") or self._declared_unit(values, summed.value):
            problems.add("This is a sum of money, and its ceiling has no unit.", ceiling.at, "Write `usd(…)`.")
        amount = most.value[1] if most.value[0] in ("money", "int") else 0
        if not isinstance(amount, int) or not 0 <= amount <= MAX_INTEGER:
            problems.add("A ceiling is 0 at least.", ceiling.at)
            amount = 0
        return summed.value, amount, most.value[0] == "money"

    @staticmethod
    def _declared_unit(values: Values, value: Value) -> bool:
        return value[0] == "arg" and values.units(tuple(str(part) for part in value[1:])) != {""}

    def check_alone(self, where: Expr, at: s.Span) -> None:
        """Notes a condition that asks for more than an action of the past is remembered by."""
        if _asks(where, _NOT_ALONE):
            self.declared.problems.add(
                "Of a past action only its arguments, its principal and its time are asked here, not sources or labels.",
                at,
            )

    def _where(self, actions: tuple[s.Name, ...], guard: s.Guard, at: s.Span) -> Expr:
        patterns = tuple(dict.fromkeys(self.declared.pattern(name) for name in actions))
        where = Conditions(Values(self.declared, patterns, {}), grants=False).guard(guard)
        self.check_alone(where, at)
        return TRUE if _asks(where, _NOT_ALONE) else where

    def _add(
        self,
        actions: tuple[s.Name, ...],
        where: Expr,
        event: Event,
        keep: Keep,
        of: Value | None,
        reach: s.Reach,
        present: tuple[s.Name, ...],
        *,
        doubt: bool,
    ) -> str:
        patterns = tuple(dict.fromkeys(self.declared.pattern(name) for name in actions))
        problems = self.declared.problems
        for at in [each.at for each in reach.within[1:]] + [each.at for each in reach.scope[1:]]:
            problems.add("This is said already.", at, "Take one of them out.")
        window_ms = span_of(reach.within[0], problems) if reach.within else None
        scope = self._scope(reach)
        same = self._same(reach, patterns, tuple(self.declared.pattern(name) for name in present))
        watch = Watch("w", patterns, where, event, keep, of, window_ms, scope, same, doubt)
        for known in self.found:
            if Watch("w", *(getattr(known, name) for name in Watch.__slots__[1:])) == watch:
                return known.id
        name = f"w{len(self.found) + 1}"
        self.found.append(Watch(name, *(getattr(watch, each) for each in Watch.__slots__[1:])))
        return name

    def _scope(self, reach: s.Reach) -> Per:
        if not reach.scope:
            return "run"
        word = reach.scope[0]
        if word.text not in _SCOPES:
            remedy = meant(word.text, _SCOPES)
            self.declared.problems.add(f"`per {word.text}` names no scope.", word.at, remedy, _SCOPES)
            return "run"
        return cast("Per", word.text)

    def _same(self, reach: s.Reach, past: tuple[str, ...], present: tuple[str, ...]) -> tuple[tuple[Value, Value], ...]:
        pairs = []
        for pair in reach.same:
            now = Values(self.declared, tuple(dict.fromkeys(present)), {}).value(pair.present)
            then = Values(self.declared, past, {}).value(pair.past or pair.present)
            if WRONG in (now, then):
                continue
            if now.value[0] not in ("arg", "principal") or then.value[0] not in ("arg", "principal"):
                self.declared.problems.add("What is the same is an argument, or a field of the principal.", pair.at)
            elif not now.shape.kinds & then.shape.kinds:
                self.declared.problems.add(f"One is {now.shape.says()}, the other {then.shape.says()}.", pair.at)
            elif (then.value, now.value) in pairs:
                self.declared.problems.add("This is said already.", pair.at, "Take one of them out.")
            pairs.append((then.value, now.value))
        return tuple(dict.fromkeys(pairs))


def _asks(node: tuple[object, ...], operators: tuple[str, ...]) -> bool:
    return (bool(node) and node[0] in operators) or any(
        isinstance(part, tuple) and _asks(part, operators) for part in node
    )
