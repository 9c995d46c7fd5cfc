"""Decisions: what was decided and why, as lists, as files, as they come; and the log that they are in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypedDict, Unpack

from sdk import events
from sdk.calls import EXPORT_SILENCE_S, Calls
from sdk.log import Consistency, Inclusion, LogKey, LogStatus, Witness
from sdk.types import Json, read_answer


@dataclass(frozen=True, slots=True)
class Decision:
    """A recorded verdict."""

    decision_id: str
    run_id: str | None
    step: int | None
    try_number: int | None
    kind: str
    agent: str
    role: str
    tool: str
    verdict: Literal["allow", "deny", "needs_approval"]
    reason_codes: list[str]
    message: str
    rule_id: str
    hold_id: str | None
    approval_id: str | None
    created_at: datetime
    superseded_at: datetime | None
    leaf_index: int | None
    record_hash: str


@dataclass(frozen=True, slots=True)
class DecisionDetail:
    """A recorded verdict with both parts of its record: to read, and byte for byte as they were hashed.

    Attributes:
        part_a: What was evaluated; None once it was deleted.
        part_a_sha256: Hash of its bytes, hex, which stays.
        values: Personal values that part A has as salted hashes, by JSON pointer into the arguments; None once they were erased.
    """

    decision: Decision
    part_a: Json | None
    part_b: Json
    part_a_base64: str | None
    part_b_base64: str
    part_a_sha256: str
    values: Json | None


class DecisionFilters(TypedDict, total=False):
    """Which decisions are meant; all that are given have to be met.

    Attributes:
        run_id: Only of this run.
        agent: Only about this agent.
        role: Only about agents of this role.
        verdict: `allow`, `deny` or `needs_approval`.
        kind: Such as `tool.call` or `run.admission`.
        tool: Only calls of this tool.
        rule: Only those that this rule decided.
        code: With this reason code.
        start: From when.
        end: Before when.
    """

    run_id: str | None
    agent: str | None
    role: str | None
    verdict: str | None
    kind: str | None
    tool: str | None
    rule: str | None
    code: str | None
    start: datetime | None
    end: datetime | None


_IN_QUERY: Final = {"run_id": "run", "start": "from", "end": "to"}
"""What a filter is called in the query, where it is called otherwise."""


def _query(filters: DecisionFilters) -> dict[str, object]:
    if unknown := filters.keys() - DecisionFilters.__annotations__.keys():
        raise TypeError(f"decisions are not found by {', '.join(sorted(unknown))}")
    return {
        _IN_QUERY.get(name, name): value.isoformat() if isinstance(value, datetime) else value
        for name, value in filters.items()
    }


class DecisionCalls(Calls):
    """What the client can do with decisions, and with the log."""

    def decisions(self, *, count: int | None = None, **filters: Unpack[DecisionFilters]) -> list[Decision]:
        """Returns recorded decisions, newest first.

        Args:
            count: Most of them; all if not given.
            **filters: Which; see `DecisionFilters`.
        """
        return self._list(Decision, "/v1/decisions", _query(filters), count)

    def decisions_export(
        self, form: Literal["jsonl", "csv", "ocsf"], **filters: Unpack[DecisionFilters]
    ) -> Iterator[bytes]:
        """Yields decisions as a file, oldest first, piece by piece as it comes; for `filters` see `DecisionFilters`."""
        query = {**_query(filters), "format": form}
        with self._transport.stream("/v1/decisions", query=query, headers={}, silence_s=EXPORT_SILENCE_S) as answer:
            if answer is not None:
                yield from answer.iter_bytes()

    def decisions_as_they_come(
        self, *, after: str | None = None, patience_s: float = 60.0, **filters: Unpack[DecisionFilters]
    ) -> Iterator[tuple[str, Json]]:
        """Yields decisions as they come into the log, each with the id after which `after` goes on.

        A dropped connection is opened again and resumes: nothing is lost, nothing comes twice.

        Args:
            after: Begin after this id; `0` is the log's beginning. Default: what comes from now on.
            patience_s: How long the server may be away before `NoAnswer` is raised.
            **filters: Which; see `DecisionFilters`.
        """
        return events.follow_decisions(self._transport, _query(filters), after=after, patience_s=patience_s)

    def audit_export(
        self,
        *,
        run_id: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        since: int | None = None,
    ) -> Iterator[bytes]:
        """Yields a bundle of decisions that anybody can check, piece by piece as it comes.

        Args:
            run_id: Only of this run; else of the tenant.
            start: From when.
            end: Before when; the moment of the export if not given.
            since: Size of a checkpoint that was seen before, which the bundle shall prove to go on from.
        """
        times = {"from": start, "to": end}
        query = {"run": run_id, "since": since, **{name: time and time.isoformat() for name, time in times.items()}}
        with self._transport.stream("/v1/audit/export", query=query, headers={}, silence_s=EXPORT_SILENCE_S) as answer:
            if answer is not None:
                yield from answer.iter_bytes()

    def decision(self, decision_id: str) -> DecisionDetail:
        """Returns a decision with both parts of its record."""
        answer: Json = self._transport.request("GET", f"/v1/decisions/{decision_id}")
        return read_answer(DecisionDetail, {**answer, "decision": read_answer(Decision, answer["decision"])})

    def log_status(self) -> LogStatus:
        """Returns how the log stands: its size, how far it is signed and cosigned, and what waits for a number."""
        answer: Json = self._transport.request("GET", "/v1/log/status")
        return read_answer(
            LogStatus, {**answer, "witnesses": [read_answer(Witness, one) for one in answer["witnesses"]]}
        )

    def log_inclusion(self, decision_id: str, *, size: int | None = None) -> Inclusion:
        """Returns the proof that a decision is in the log, as of its newest checkpoint or the one of a size."""
        answer = self._transport.request("GET", f"/v1/log/inclusion/{decision_id}", query={"size": size})
        return read_answer(Inclusion, answer)

    def log_consistency(self, old_size: int, *, size: int | None = None) -> Consistency:
        """Returns the newest checkpoint, or the one of a size, and the proof that it follows from that of an older size."""
        query = {"old_size": old_size, "size": size}
        return read_answer(Consistency, self._transport.request("GET", "/v1/log/consistency", query=query))

    def log_keys(self) -> list[LogKey]:
        """Returns all public keys that sign or have signed the log, the newest first."""
        return [read_answer(LogKey, item) for item in self._transport.request("GET", "/v1/log/keys")["items"]]

    def witnesses(self) -> list[Witness]:
        """Returns the witnesses whose cosignatures the log takes."""
        return [read_answer(Witness, item) for item in self._transport.request("GET", "/v1/log/witnesses")["items"]]

    def add_witness(self, vkey: str) -> None:
        """Makes a witness known to the log."""
        self._transport.request("POST", "/v1/log/witnesses", body={"vkey": vkey})

    def remove_witness(self, vkey: str) -> None:
        """Takes no cosignatures of a witness any more."""
        self._transport.request("POST", "/v1/log/witnesses/remove", body={"vkey": vkey})

    def cosign(self, checkpoint: str) -> int:
        """Hands in a checkpoint with a witness's cosignature on it, and returns how many were taken."""
        answer: Json = self._transport.request("POST", "/v1/log/cosignatures", body={"checkpoint": checkpoint})
        return int(answer["taken"])
