"""Case files: what a policy has to decide, written beside it. This module reads them; `playing` plays them."""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NoReturn, cast, get_args

from holdfast_verdict.engine.facts import Estimate
from holdfast_verdict.engine.numbers import NANO_PER

Expected = Literal["allow", "deny", "needs_approval"]
Outcome = Literal["succeeded", "failed", "unknown", "pending"]

NOON_MS: Final = 1_767_614_400_000
"""When a case takes place that does not say: noon of a Monday, 2026-01-05, UTC."""
_PRINCIPAL: Final = {"tenant": "default", "project": "default", "user": "owner", "agent": "agent", "run": "run-1"}
_OF_STEP: Final = (
    "action", "args", "raw", "after", "user_says", "reads", "labels", "released", "history", "estimate", "approvals", "refused",
    "expect", "code", "rule", "needs", "because", "outcome", "output",
)  # fmt: skip
_OF_CASE: Final = ("name", "role", "principal", "at", "step")
_SPAN: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_MS_PER: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class CasesInvalid(ValueError):
    """A case file has not the documented form; the message names the case and the key."""


@dataclass(frozen=True, slots=True)
class Read:
    """An output that the run has read before.

    Attributes:
        action: Whose output.
        args: Its arguments.
        output: The output.
        labels: Labels that it carries besides those that policy and catalogue give it.
    """

    action: str
    args: Mapping[str, object]
    output: object
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """Something that has happened before.

    Attributes:
        action: Which action.
        args: Its arguments.
        event: What came of it.
        ago_ms: How long ago.
        times: How often.
        principal: Who did it, where that is somebody else.
    """

    action: str
    args: Mapping[str, object]
    event: str
    ago_ms: int
    times: int
    principal: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Consented:
    """A consent that is given to exactly this action.

    Attributes:
        kind: A user, an agent or a signer.
        by: Who.
        roles: For a user, the roles.
    """

    kind: Literal["user", "agent", "signer"]
    by: str
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a case, with what is so before it and what has to be decided."""

    action: str
    arguments: Mapping[str, object] | str
    expect: Expected
    after_ms: int = 0
    user_says: tuple[object, ...] = ()
    reads: tuple[Read, ...] = ()
    labels: tuple[str, ...] = ()
    released: tuple[tuple[str, str], ...] = ()
    history: tuple[Past, ...] = ()
    estimate: Estimate | None = None
    approvals: tuple[Consented, ...] = ()
    refused: bool = False
    code: str | None = None
    rule: str | None = None
    needs: tuple[str, ...] | None = None
    because: str | None = None
    outcome: Outcome = "succeeded"
    output: object = None


@dataclass(frozen=True, slots=True)
class Case:
    """A case: one run, with one step or several.

    Attributes:
        name: What it says of the policy.
        principal: Who acts.
        at_ms: When it begins.
        steps: Its steps, in order.
    """

    name: str
    principal: Mapping[str, object]
    at_ms: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class CaseFile:
    """What stands in a case file.

    Attributes:
        cases: The cases.
        actions: The catalogue's file that it names, or empty.
    """

    cases: tuple[Case, ...]
    actions: str = ""


@dataclass(frozen=True, slots=True)
class _At:
    """Where something stands in the file, for messages."""

    words: str
    values: Mapping[str, object] = field(repr=False)

    def wrong(self, key: str, message: str) -> NoReturn:
        raise CasesInvalid(f"{self.words}: {key} {message}")

    def only(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
                raise CasesInvalid(f"{self.words}: there is no {key!r} here; {hint}")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            self.wrong(key, "is a text")
        return value

    def needed(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.wrong(key, "is missing")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, ())
        listed = (value,) if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not all(isinstance(each, str) for each in listed):
            self.wrong(key, "is a list of texts")
        return tuple(cast("Sequence[str]", listed))

    def table(self, key: str) -> Mapping[str, object]:
        value = self.values.get(key, {})
        if not isinstance(value, Mapping):
            self.wrong(key, "is a table, such as { amount = 50 }")
        return cast("Mapping[str, object]", value)

    def word(self, key: str, words: Sequence[str], default: str | None) -> str:
        value = self.values.get(key, default)
        if value not in words:
            self.wrong(key, f"is one of {', '.join(words)}, not {value!r}")
        return str(value)

    def span(self, key: str) -> int:
        value = self.values.get(key, "0s")
        match = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong(key, 'is a span of time, such as "30m", "2h" or "1d"')
        return int(match[1]) * _MS_PER[match[2]]

    def count(self, key: str, default: int | None, least: int = 0) -> int | None:
        value = self.values.get(key, default)
        if value is not None and (type(value) is not int or value < least):
            self.wrong(key, f"is a whole number of at least {least}")
        return value

    def rows(self, key: str) -> list[_At]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            self.wrong(key, "is a list of tables, such as [{ … }, { … }]")
        return [_At(f"{self.words}: {key} {number}", each) for number, each in enumerate(value, 1)]


def read_cases(document: Mapping[str, object]) -> CaseFile:
    """Reads a case file.

    Args:
        document: The file's TOML.

    Raises:
        CasesInvalid: It has not the documented form.
    """
    whole = _At("the file", document)
    whole.only("actions", "defaults", "case")
    defaults = _At("defaults", whole.table("defaults"))
    defaults.only(*_OF_CASE[1:-1], *_OF_STEP)
    cases = [_case(at, defaults.values) for at in whole.rows("case")]
    if not cases:
        raise CasesInvalid("the file has no [[case]]")
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise CasesInvalid(f"two cases are called {name!r}")
    return CaseFile(tuple(cases), whole.text("actions") or "")


def _case(at: _At, defaults: Mapping[str, object]) -> Case:
    at.only(*_OF_CASE, *_OF_STEP)
    name = at.needed("name")
    at = _At(f"case {name!r}", {**defaults, **at.values})
    given = {**_At("defaults", defaults).table("principal"), **at.table("principal")}
    principal: dict[str, object] = {**_PRINCIPAL, **given}
    role = at.text("role")
    if role is not None:
        principal["role"] = role
    steps = at.rows("step")
    if steps and any(key in at.values and key not in defaults for key in ("action", "args", "raw", "expect")):
        at.wrong("step", "does not go with an action of the case itself: write it as the first step")
    shared = {key: value for key, value in defaults.items() if key in _OF_STEP}
    read = [_step(_At(each.words, {**shared, **each.values}), single=False) for each in steps] or [
        _step(at, single=True)
    ]
    return Case(name, principal, _time(at), tuple(read))


def _time(at: _At) -> int:
    value = at.values.get("at")
    if value is None:
        return NOON_MS
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            at.wrong("at", "is no time; write it as 2026-03-02T10:00:00Z")
    if not isinstance(value, dt.datetime):
        at.wrong("at", "is no time; write it as 2026-03-02T10:00:00Z")
    aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
    return (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def _step(at: _At, *, single: bool) -> Step:
    at.only(*_OF_STEP, *(_OF_CASE if single else ()))
    if "raw" in at.values and "args" in at.values:
        at.wrong("raw", "and args are two ways to say the same: write one of them")
    said = at.values.get("user_says", ())
    released = at.rows("released")
    for each in released:
        each.only("label", "role")
    return Step(
        at.needed("action"),
        at.needed("raw") if "raw" in at.values else at.table("args"),
        cast("Expected", at.word("expect", get_args(Expected), None if single else "allow")),
        at.span("after"),
        tuple(said) if isinstance(said, list) else (said,) if said != () else (),
        tuple(_read(each) for each in at.rows("reads")),
        at.texts("labels"),
        tuple((each.needed("label"), each.needed("role")) for each in released),
        tuple(_past(each) for each in at.rows("history")),
        _estimate(_At(f"{at.words}: estimate", at.table("estimate"))) if "estimate" in at.values else None,
        tuple(_consent(each) for each in at.rows("approvals")),
        at.values.get("refused", False) is True,
        at.text("code"),
        at.text("rule"),
        at.texts("needs") if "needs" in at.values else None,
        at.text("because"),
        cast("Outcome", at.word("outcome", get_args(Outcome), "succeeded")),
        at.values.get("output"),
    )


def _read(at: _At) -> Read:
    at.only("action", "args", "output", "labels")
    return Read(at.needed("action"), at.table("args"), at.values.get("output", ""), at.texts("labels"))


def _past(at: _At) -> Past:
    people = ("tenant", "project", "user", "agent", "role", "run")
    at.only("action", "args", "event", "ago", "times", *people)
    event = at.word("event", ("requested", "succeeded", "failed", "unknown"), "succeeded")
    times = at.count("times", 1, 1)
    others = {name: at.needed(name) for name in people if name in at.values}
    return Past(at.needed("action"), at.table("args"), event, at.span("ago"), cast("int", times), others)


def _estimate(at: _At) -> Estimate:
    at.only("usd", "tokens")
    usd = at.values.get("usd", "0")
    try:
        nano = Decimal(str(usd)) * NANO_PER["usd"] if isinstance(usd, str | int) and not isinstance(usd, bool) else None
    except InvalidOperation:
        nano = None
    if nano is None or nano < 0 or nano != int(nano):
        at.wrong("usd", 'is an amount in dollars, such as "0.02"')
    return Estimate(int(nano), at.count("tokens", 0))


def _consent(at: _At) -> Consented:
    at.only("role", "user", "agent", "signer")
    if "agent" in at.values:
        return Consented("agent", at.needed("agent"), at.texts("role"))
    if "signer" in at.values:
        return Consented("signer", at.needed("signer"), at.texts("role"))
    roles = at.texts("role")
    if not roles:
        at.wrong("role", "is missing: an approval is of somebody's role, of an agent or of a signer")
    return Consented("user", at.text("user") or f"some {roles[0]}", roles)


def read_request(document: Mapping[str, object], where: str) -> Case:
    """Reads one action with what is known, which has the keys of a case but needs no name and expects nothing.

    Args:
        document: The keys.
        where: What it is called in messages.

    Raises:
        CasesInvalid: It has not the documented form.
    """
    at = _At(where, {"name": where, "expect": "allow", **document})
    at.only(*(key for key in _OF_CASE if key != "step"), *_OF_STEP)
    principal: dict[str, object] = {**_PRINCIPAL, **at.table("principal")}
    role = at.text("role")
    if role is not None:
        principal["role"] = role
    return Case(where, principal, _time(at), (_step(at, single=True),))
