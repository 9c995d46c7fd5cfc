"""Lines and parts as they are written: one expression sees that they have their form and are canonical, and takes out what sums need.

What it takes out is what reading the text as JSON would give, and takes a fraction of the time. An expression may match less than the
form allows (text without escapes, legs that are all alike), and never more: what it does not match is read as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from holdfast_verdict.record import RECORD_VERSION
from holdfast_verdict.verify.forms import AMOUNT, NUMBER, TEXT, UUID, Form, constant, list_of, members, or_null
from holdfast_verdict.verify.lines import ENTRY_LEG, HOLD_LEG, MEMBERS

Match = Callable[[str], "re.Match[str] | None"]

_NULL: Final = "(?:null|"
ENDLESS: Final = "total"
"""The window of a cap of which a decision names none."""

_LEGS: Final = r"(\[[^\]]*+\])"
"""Legs as one piece; whoever takes it sees that it is of its form."""
_NO_LEGS: Final = "[]"


class Named(NamedTuple):
    """What a cap is of; its id stands for these, for good."""

    scope_kind: str
    scope_id: str
    unit: str
    window: str


class Columns(NamedTuple):
    """Legs by column, each amount as text; `null` in the place of a limit is none, and no `carried` is nothing carried.

    Only a decision says what its caps are of.
    """

    caps: Sequence[str]
    amounts: Sequence[str]
    limits: Sequence[str]
    reserved: Sequence[str]
    committed: Sequence[str]
    debt: Sequence[str]
    carried: Sequence[int] | None = None
    named: Sequence[tuple[str, ...]] = ()


class PartB(NamedTuple):
    """What is taken out of part B of a record; its legs as one piece."""

    decision_id: str
    hold_id: str | None
    legs: str
    code: str
    time_ms: str
    verdict: str


def _taken(form: Form) -> str:
    """Returns the expression of a form that takes the value out; nothing of what is null."""
    if form.written.startswith(_NULL):
        return f"{_NULL}{_bare(form.written[len(_NULL) : -1])})"
    return _bare(form.written)


def _bare(written: str) -> str:
    return f'"({written[1:-1]})"' if written.startswith('"') else f"({written})"


def _as_written(written: str) -> Form:
    """Returns a form that is only said as an expression."""
    return Form(lambda _: False, written)


def _object(forms: Mapping[str, Form], taken: Collection[str]) -> Match:
    """Returns what matches an object with these members and takes some of them out, in the order of their names."""
    written = (
        f'"{name}":{_LEGS if name == "legs" else _taken(form) if name in taken else form.written}'
        for name, form in sorted(forms.items())
    )
    return re.compile(rf"\{{{','.join(written)}\}}").fullmatch


def _line(kind: str, *taken: str) -> Match:
    return _object({**MEMBERS[kind], "type": constant(kind)}, taken)


ENTRY: Final = _line("journal", "cost_nano_usd", "counts", "entry_id", "hold_id", "kind", "reason")
"""Takes out, with the legs between kind and reason, these members of an entry of the journal."""

HOLD_TAKEN: Final = (
    "cost_nano_usd", "decision_id", "digest", "expires_at_ms", "hold_id", "idempotent", "kind", "legs", "outcome", "outward_at_ms",
    "run_id", "settled_at_ms", "state", "step", "try", "unknown_at_ms",
)  # fmt: skip
HOLD: Final = _line("hold", *HOLD_TAKEN)
"""Takes out these members of a hold."""

PROOF: Final = _line("proof", "decision_id", "leaf_index", "path", "record_hash")
"""Takes out these members of a proof."""

_PAIR: Final = rf"\[{TEXT.written},{TEXT.written}\]"
_CODES: Final = rf"\[{_bare(TEXT.written)}\]"
_DECIDED_LEG: Final = members(
    amount=AMOUNT, cap_id=UUID, committed=AMOUNT, debt=AMOUNT, limit=or_null(AMOUNT), reserved=AMOUNT, scope=_as_written(_PAIR),
    unit=TEXT,
)  # fmt: skip
_B: Final = re.compile(
    rf'\{{"decision_id":{_taken(UUID)},"hold_id":{_taken(or_null(UUID))},"legs":({list_of(_DECIDED_LEG).written}),'
    rf'"reason_codes":{_CODES},"time_ms":{_taken(NUMBER)},"v":{RECORD_VERSION},"verdict":{_taken(TEXT)}\}}'
).fullmatch
_ENTRY_LEGS: Final = re.compile(list_of(ENTRY_LEG).written).fullmatch
_HOLD_LEGS: Final = re.compile(list_of(HOLD_LEG).written).fullmatch

# Between quotation marks stand, one after another, the names and values of the first leg, then those of the second, and so on.
_B_STRIDE, _ENTRY_STRIDE, _HOLD_STRIDE = 34, 20, 8


def part_b(text: str) -> PartB | None:
    """Reads part B of a record; None if it is written in another way, or has a leg with what older hours carried."""
    found = _B(text)
    return None if found is None else PartB._make(found.groups())


def decided_legs(legs: str) -> Columns:
    """Reads the legs that `part_b` has taken out."""
    if legs == _NO_LEGS:
        return _NOTHING
    words = legs.replace(_NO_LIMIT, _NO_LIMIT_AS_TEXT).split('"')
    caps, amounts, limits = words[7::_B_STRIDE], words[3::_B_STRIDE], words[19::_B_STRIDE]
    balances = words[23::_B_STRIDE], words[11::_B_STRIDE], words[15::_B_STRIDE]
    named = zip(words[27::_B_STRIDE], words[29::_B_STRIDE], words[33::_B_STRIDE], repeat(ENDLESS))
    return Columns(caps, amounts, limits, *balances, named=list(named))


def entry_legs(legs: str) -> Columns | None:
    """Reads the legs of an entry of the journal, whose amounts are what is moved; None if they are not of their form."""
    if _ENTRY_LEGS(legs) is None:
        return None
    if legs == _NO_LEGS:
        return _NOTHING
    words = legs.replace(_NO_LIMIT, _NO_LIMIT_AS_TEXT).split('"')
    caps, limits = words[3::_ENTRY_STRIDE], words[15::_ENTRY_STRIDE]
    return Columns(caps, (), limits, words[19::_ENTRY_STRIDE], words[7::_ENTRY_STRIDE], words[11::_ENTRY_STRIDE])


def hold_legs(legs: str) -> Columns | None:
    """Reads the legs of a hold; None if they are not of their form."""
    if _HOLD_LEGS(legs) is None:
        return None
    words = legs.split('"')
    return Columns(words[7::_HOLD_STRIDE], words[3::_HOLD_STRIDE], (), (), (), ())


_NO_LIMIT: Final = '"limit":null'
_NO_LIMIT_AS_TEXT: Final = '"limit":"null"'
_NOTHING: Final = Columns((), (), (), (), (), ())
