"""Faults that tests order, and the journal of what was received and billed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal[
    "status",
    "cut",
    "rubbish",
    "hang",
    "gate",
    "slow",
    "flood",
    "empty",
    "no_usage",
    "usage",
    "usage_factor",
    "error_after_billing",
    "stream_error",
]
_KINDS = frozenset(Kind.__args__)  # type: ignore[attr-defined]  # Literal has __args__; the stubs do not say so
_PLACES = ("start", "middle", "end")
_FORMS = ("bytes", "json", "html", "gzip", "not_http")
_TIMES_MAX = 10_000


class FaultInvalidError(ValueError):
    """An ordered fault has no meaning; the message says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with one call.

    Attributes:
        kind: What goes wrong.
        status: `status`: the HTTP status to answer with.
        retry_after: `status`: the header of that name, as it stands.
        at: `cut`, `hang`: at the start (before the response), in the middle, or at the end (before the closing events).
        form: `rubbish`: bytes, broken JSON in the middle, an HTML page, a compressed body, or no HTTP at all.
        factor: `usage_factor`: what reported and billed usage is multiplied by; with `of` `max_tokens`, the output is
            that many times the request's bound.
        of: `usage_factor`: `usage` or `max_tokens`.
        usage: `usage`: members put over the wire's own usage, as they stand.
        ms: `slow`: pause before each event.
        size_bytes: `flood`: length of a line that does not end.
        cut: With any kind that answers with a stream: the connection is cut there as well (`start`, `middle`, `end`).
            After `error_after_billing` it is cut instead of answered.
        match: Only for a call whose first message from the user holds this text; other faults are for any call.
    """

    kind: Kind
    status: int = 500
    retry_after: str | None = None
    at: str = "middle"
    form: str = "bytes"
    factor: int = 4
    of: str = "usage"
    usage: Mapping[str, object] = field(default_factory=dict)
    ms: int = 50
    size_bytes: int = 0
    cut: str = ""
    match: str = ""


def read_fault(order: object) -> tuple[Fault, int]:
    """Reads an ordered fault and how many calls it is for (`times`, 1 unless given).

    Raises:
        FaultInvalidError: It has no meaning.
    """
    if not isinstance(order, dict) or order.get("kind") not in _KINDS:
        raise FaultInvalidError(f"{order!r}: kind must be one of {', '.join(sorted(_KINDS))}")
    members: dict[str, Any] = {name: value for name, value in order.items() if name != "times"}  # Any: JSON of a test
    times = order.get("times", 1)
    if not isinstance(times, int) or not 0 < times <= _TIMES_MAX:
        raise FaultInvalidError(f"{order!r}: times must be between 1 and {_TIMES_MAX}")
    try:
        fault = Fault(**members)
    except TypeError as error:
        raise FaultInvalidError(f"{order!r}: {error}") from None
    if fault.at not in _PLACES or fault.form not in _FORMS or fault.of not in ("usage", "max_tokens"):
        raise FaultInvalidError(f"{order!r}: at is one of {_PLACES}, form of {_FORMS}, of is usage or max_tokens")
    if fault.cut not in ("", *_PLACES) or not isinstance(fault.match, str):
        raise FaultInvalidError(f"{order!r}: cut is one of {_PLACES}, match is text")
    return fault, times


@dataclass(slots=True)
class JournalEntry:
    """One call that was received.

    Attributes:
        order: Number of the call, from 1.
        wire: Wire it came over.
        model: Model it asked for.
        stream: Whether a stream was asked for.
        max_tokens: Bound it gave.
        idempotency_key: Header of that name.
        key_fingerprint: First digits of the API key's SHA-256.
        header_names: Names of all headers that came.
        fault: Kind of the fault that met it.
        state: `answering`, `waiting` (at a gate or hanging), `answered`, `aborted` (by a fault) or `disconnected`.
        status: HTTP status that was sent, None if none was.
        billed: Whether it was billed.
        usage: What was billed: the whole input, and the output that was sent.
        completed: Whether the whole answer was sent.
    """

    order: int
    wire: str
    model: str
    stream: bool
    max_tokens: int
    idempotency_key: str | None
    key_fingerprint: str
    header_names: list[str]
    fault: str | None = None
    state: str = "answering"
    status: int | None = None
    billed: bool = False
    usage: dict[str, int] = field(default_factory=lambda: {"input_tokens": 0, "output_tokens": 0})
    completed: bool = False

    def bill(self, input_tokens: int, output_tokens: int) -> None:
        """Says what is billed so far; a bill never shrinks."""
        self.billed = True
        self.usage = {
            "input_tokens": max(input_tokens, self.usage["input_tokens"]),
            "output_tokens": max(output_tokens, self.usage["output_tokens"]),
        }


@dataclass(slots=True)
class Control:
    """What tests steer and look at."""

    faults: deque[Fault] = field(default_factory=deque)
    journal: list[JournalEntry] = field(default_factory=list)
    gates: set[asyncio.Event] = field(default_factory=set)
    received: int = 0

    def order(self, orders: object) -> int:
        """Appends faults and returns how many are waiting now; all are checked before the first is taken."""
        if not isinstance(orders, list):
            raise FaultInvalidError("faults come as a JSON array")
        for fault, times in [read_fault(order) for order in orders]:
            self.faults.extend([fault] * times)
        return len(self.faults)

    def next_fault(self, said: str) -> Fault | None:
        """Takes the next ordered fault that is for a call in which the user first said this."""
        for fault in self.faults:
            if fault.match in said:
                self.faults.remove(fault)
                return fault
        return None

    def release(self) -> int:
        """Lets everything go on that waits, and returns how many did."""
        waiting = list(self.gates)
        for gate in waiting:
            gate.set()
        return len(waiting)

    def reset(self) -> None:
        """Forgets ordered faults and the journal, and lets everything go on that waits."""
        self.release()
        self.faults.clear()
        self.journal.clear()
        self.received = 0

    def calls(self) -> list[dict[str, Any]]:
        """Returns the journal as JSON (Any: `asdict` does not keep the members' types)."""
        return [asdict(entry) for entry in self.journal]
