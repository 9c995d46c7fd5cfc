"""The syntax tree of a policy: what stands in the source, where, before anything is known of what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

Span = tuple[int, int]
"""First character in the source, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name, or an action's pattern; `quoted` if it stands in quotes."""

    text: str
    at: Span
    quoted: bool = False


# --- values


@dataclass(frozen=True, slots=True)
class Path:
    """Such as `args.to`, `principal.tenant`, `item.price` or a lone name."""

    parts: tuple[str, ...]
    at: Span
    keys: int = 0
    """How many of the last parts stand in brackets: `args["odd name"]`."""


@dataclass(frozen=True, slots=True)
class Call:
    """Such as `usd(500)` or `domain("acme.com")`."""

    name: str
    arguments: tuple[Value, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class Text:
    """Text in quotes."""

    value: str
    at: Span


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written, without `_`."""

    text: str
    at: Span


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    value: bool
    at: Span


Value = Union[Path, Call, Text, Number, Flag]  # noqa: UP007 (a quoted name in it cannot be a part of a `|` at run time)


@dataclass(frozen=True, slots=True)
class Range:
    """`1..10` in a list."""

    low: Value
    high: Value
    at: Span


@dataclass(frozen=True, slots=True)
class Members:
    """A list in brackets."""

    members: tuple[Value | Range, ...]
    at: Span


Matchers = Union[Members, Call, Name]  # noqa: UP007 (as `Value`)


# --- conditions


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions that are joined by `and` or by `or`."""

    word: Literal["and", "or"]
    parts: tuple[Condition, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class Negated:
    """`not …`."""

    part: Condition
    at: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values with `==`, `<=`, `starts`, `contains` … between them."""

    operator: str
    left: Value
    right: Value
    at: Span


@dataclass(frozen=True, slots=True)
class Membership:
    """`in`, `all in`, `any in`, `none in`, `not in`."""

    operator: Literal["in", "all_in", "any_in", "none_in", "not_in"]
    value: Value
    matchers: Matchers
    at: Span


@dataclass(frozen=True, slots=True)
class State:
    """`is present`, `is absent`, `is empty`."""

    value: Value
    word: Name
    at: Span


@dataclass(frozen=True, slots=True)
class Between:
    """`between 1 and 10`, both included."""

    value: Value
    low: Value
    high: Value
    at: Span


@dataclass(frozen=True, slots=True)
class Quantified:
    """`every args.items as item: (…)`, `some …`."""

    word: Literal["every", "some"]
    value: Value
    name: Name
    body: Condition
    at: Span


@dataclass(frozen=True, slots=True)
class Provenance:
    """`args.to from untrusted`, `args.to only from user, tool("crm.lookup")`."""

    value: Value
    only: bool
    origins: tuple[Name | Call, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class RunHas:
    """`run has secret`."""

    label: Name
    at: Span


@dataclass(frozen=True, slots=True)
class Who:
    """`role("boss")`, `agent("reviewer")`, `signer("bank")`."""

    kind: str
    name: str
    at: Span


@dataclass(frozen=True, slots=True)
class Released:
    """`released by role("dpo")`, `secret released by role("dpo")`."""

    label: Name | None
    who: Who
    at: Span


@dataclass(frozen=True, slots=True)
class TimeIn:
    """`time in "Europe/Berlin" between 09:00 and 18:00 on mon..fri`."""

    zone: Text
    between: tuple[Name, Name] | None
    days: tuple[tuple[Name, Name], ...]
    at: Span


Condition = Union[  # noqa: UP007 (as `Value`)
    Joined, Negated, Comparison, Membership, State, Between, Quantified, Provenance, RunHas, Released, TimeIn
]


# --- statements


@dataclass(frozen=True, slots=True)
class Guard:
    """`where …` (or `when …`) and `unless …`."""

    where: Condition | None = None
    unless: Condition | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """`code "refund.too_much"`: the reason code that a forbid gives."""

    word: Name
    text: Text


@dataclass(frozen=True, slots=True)
class Ending:
    """`as name code "reason.code" because "sentence"`."""

    name: Name | None = None
    because: Text | None = None
    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Duration:
    """Such as `30m`."""

    text: str
    at: Span


@dataclass(frozen=True, slots=True)
class SamePair:
    """`args.invoice`, or `args.invoice == its args.reference`: of the present action, and of the past one."""

    present: Value
    past: Value | None
    at: Span


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back and whose: `within 1h per tenant with same args.invoice`."""

    within: tuple[Duration, ...] = ()
    scope: tuple[Name, ...] = ()
    same: tuple[SamePair, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """A past action, in `requires …` and `after …`."""

    actions: tuple[Name, ...]
    guard: Guard
    event: Name | None
    reach: Reach
    at: Span


@dataclass(frozen=True, slots=True)
class Permit:
    """`permit …`; `targets` are `to hosts […] methods […]`."""

    actions: tuple[Name, ...]
    targets: tuple[tuple[Name, Members], ...]
    guard: Guard
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class Forbid:
    """`forbid …`, maybe `after …`."""

    actions: tuple[Name, ...]
    guard: Guard
    after: Past | None
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class Requires:
    """`X requires Y succeeded …`, in an invariant."""

    actions: tuple[Name, ...]
    guard: Guard
    past: Past
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class AtMost:
    """`at most 3 X within 1h …`."""

    count: Number
    actions: tuple[Name, ...]
    guard: Guard
    reach: Reach
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class Total:
    """`sum(args.amount) of X <= usd(2000) within 24h …`."""

    of: Value
    actions: tuple[Name, ...]
    guard: Guard
    ceiling: Value
    reach: Reach
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class Per:
    """`per 24h`, `per tenant`, `in total`."""

    word: str
    at: Span


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit …`; `measure` is `count`, `sum`, or the name that stands in place of actions: `spend`, `tokens`."""

    measure: Name
    actions: tuple[Name, ...]
    guard: Guard
    of: Value | None
    ceiling: Value
    per: tuple[Per, ...]
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class NeedOf:
    """`2 of role("boss")`."""

    count: Number
    who: Who
    at: Span


@dataclass(frozen=True, slots=True)
class Escalates:
    """`escalate to role("chief") after 10m`."""

    to: NeedOf
    after: Duration
    at: Span


@dataclass(frozen=True, slots=True)
class GateStatement:
    """`gate name: X where … needs …`."""

    name: Name
    actions: tuple[Name, ...]
    guard: Guard
    needs: tuple[NeedOf, ...]
    expires: tuple[Duration, ...]
    not_requester: bool
    escalates: tuple[Escalates, ...]
    ending: Ending
    at: Span


@dataclass(frozen=True, slots=True)
class LabelStatement:
    """`label X field body yields secret`."""

    actions: tuple[Name, ...]
    field: Name | None
    guard: Guard
    labels: tuple[Name, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class Invariant:
    """`invariant name: …`."""

    name: Name
    body: Requires | Forbid | AtMost | Total
    at: Span


Statement = Union[Permit, Forbid, Limit, GateStatement, LabelStatement, Invariant, AtMost, Total]  # noqa: UP007 (as `Value`)


@dataclass(frozen=True, slots=True)
class Role:
    """`role name extends other { … }`."""

    name: Name
    extends: tuple[Name, ...]
    statements: tuple[Statement, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class SetStatement:
    """`set internal = ["acme.com"]`."""

    name: Name
    value: Members | Call
    at: Span


@dataclass(frozen=True, slots=True)
class UnitOf:
    """`args.amount is usd cents`, in the declaration of an action."""

    value: Value
    words: tuple[Name, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class YieldsOf:
    """`yields secret`, `field body yields secret`, in the declaration of an action."""

    field: Name | None
    labels: tuple[Name, ...]
    at: Span


@dataclass(frozen=True, slots=True)
class ActionStatement:
    """`action name { … }`; a lone name in it is `external` or `internal`."""

    name: Name
    facts: tuple[UnitOf | YieldsOf | Name, ...]
    at: Span


Item = Union[Role, SetStatement, ActionStatement, Statement]  # noqa: UP007 (as `Value`)


@dataclass(frozen=True, slots=True)
class Source:
    """A whole policy as it stands in its text."""

    items: tuple[Item, ...]
    text: str
    file: str = ""
