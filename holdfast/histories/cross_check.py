"""The cross-check of a run: Temporal's history, or the one that is kept, held against the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from holdfast.contracts import names
from holdfast.database.engine import transaction
from holdfast.errors import Conflict, NotFound, Unavailable
from holdfast.histories import document, fetching, storing, witnessed
from holdfast.histories.comparing import Allowed, Compared, Difference, compare
from holdfast.histories.document import HistoryDamaged, Sealing
from holdfast.histories.fetching import Execution
from holdfast.histories.storing import Recorded
from holdfast_verdict.record import record_hash

Source = Literal["temporal", "stored", "none"]

# A history is kept and its digest recorded in one transaction: whoever saw one without the other would find it altered.
_AT_ONE_MOMENT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
_RUN = text("""
    SELECT r.status, r.started_at IS NOT NULL AS started, r.ended_at IS NOT NULL AS ended,
           ARRAY(SELECT c.run_id FROM runs c WHERE c.tenant_id = r.tenant_id AND c.parent_run_id = r.run_id ORDER BY 1) AS children
    FROM runs r WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")
_ALLOWED = text("""
    SELECT d.decision_id, d.part_a, d.part_b, d.record_hash, d.hold_id, h.kind, h.state, h.outward_at, h.unknown_at,
           h.lease_hash IS NOT NULL AS was_redeemed,
           coalesce(h.state = 'executing' AND h.lease_expires_at > clock_timestamp(), false) AS lease_runs,
           EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id) AS has_outcome
    FROM decisions d LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE d.tenant_id = :tenant_id AND d.run_id = :run_id AND d.verdict = 'allow' AND d.hold_id IS NOT NULL
      AND d.kind = ANY(CAST(:kinds AS text[]))
    ORDER BY d.decision_id
""")
_UNDECIDED = text("""
    SELECT h.hold_id, h.decision_id, h.kind, h.tool, h.step, h.try AS try_number, h.state FROM holds h
    WHERE h.tenant_id = :tenant_id AND h.run_id = :run_id AND h.kind = ANY(CAST(:kinds AS text[]))
      AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.tenant_id = h.tenant_id AND d.decision_id = h.decision_id
                      AND d.hold_id = h.hold_id AND d.verdict = 'allow')
    ORDER BY h.step, h.try
""")


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """What came of a cross-check.

    Attributes:
        run_id: The run.
        status: Where it stands.
        source: Whose history was read: `temporal`'s own, the one that is `stored`, or `none`.
        is_open: Whether the run or its workflow still goes on: what is not there yet may come.
        executions: How many executions of the workflow there are.
        events: How many events they have.
        activities: How many activities they scheduled.
        allowed: How many actions of the run were allowed.
        digest: SHA-256 over the history that the log has; empty if it has none yet.
        recorded_in: The record that says so, or empty.
        children: Runs that this one started; each has a history of its own.
        differences: Where log and history do not agree.
        notes: What else is to be known.
    """

    run_id: UUID
    status: str
    source: Source
    is_open: bool
    executions: int
    events: int
    activities: int
    allowed: int
    digest: str
    recorded_in: str
    children: tuple[str, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether both witnesses say the same."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class _Log:
    """What the log says of a run at a moment."""

    status: str
    started: bool
    ended: bool
    children: tuple[str, ...]
    allowed: list[Allowed]
    undecided: list[Difference]


@dataclass(slots=True)
class _History:
    """The history that was found, and what is wrong with it by itself."""

    source: Source
    executions: list[Execution]
    differences: list[Difference]
    notes: list[str]
    is_open: bool = False


async def cross_check(engine: AsyncEngine, client: Client, tenant_id: UUID, run_id: UUID) -> CrossCheck:
    """Holds a run's history against the log.

    Args:
        engine: Database as the API or the auditor.
        client: Temporal, with Holdfast's data converter.
        tenant_id: The tenant.
        run_id: The run.

    Raises:
        NotFound: The tenant has no such run.
        Unavailable: Temporal does not answer, and no history is kept.
    """
    async with transaction(engine, tenant_id) as connection:
        await connection.execute(_AT_ONE_MOMENT)
        before = await _log(connection, tenant_id, run_id)
        recorded = await storing.read_recorded(connection, tenant_id, run_id)
        pieces = await storing.read_stored(connection, tenant_id, run_id)
    history = await _history(client, run_id, recorded, pieces)
    async with transaction(engine, tenant_id) as connection:
        after = await _log(connection, tenant_id, run_id)
    is_open = history.is_open or not before.ended
    said = await witnessed.read(history.executions, client.data_converter.payload_codec)
    compared = Compared((), ())
    if history.source != "none":
        compared = compare(str(tenant_id), str(run_id), said, before.allowed, after.allowed, is_open=is_open)
    elif any(one.acted for one in after.allowed) or (before.started and before.ended):
        history.differences.append(Difference("witness.history_missing", _missing(recorded)))
    else:
        history.notes.append("the run has no workflow yet, and nothing of it was executed")
    if is_open:
        history.notes.append("the run goes on: this is how it stands now")
    if before.children:
        history.notes.append(f"it started {len(before.children)} runs, each with a history of its own to be checked")
    return CrossCheck(
        run_id=run_id,
        status=after.status,
        source=history.source,
        is_open=is_open,
        executions=said.executions,
        events=said.events,
        activities=len(said.activities),
        allowed=len(after.allowed),
        digest=recorded.digest if recorded else "",
        recorded_in=str(recorded.decision_id) if recorded else "",
        children=before.children,
        differences=(*history.differences, *after.undecided, *compared.differences),
        notes=(*history.notes, *compared.notes),
    )


def _missing(recorded: Recorded | None) -> str:
    if recorded is None:
        return "Temporal has no history of the run's workflow any more, and none was kept"
    if not recorded.executions:
        return "Temporal had no history of the run's workflow when the run had ended"
    return "Temporal has no history of the run's workflow any more, and what was kept of it is gone"


async def _history(client: Client, run_id: UUID, recorded: Recorded | None, pieces: Sequence[bytes]) -> _History:
    """Returns Temporal's history if it is there, else the one that is kept; both are held against the recorded digest."""
    found = _History("none", [], [], [])
    kept = await asyncio.to_thread(_kept, run_id, recorded, pieces, found)
    try:
        newest = await fetching.newest(client, str(run_id))
        if newest is not None:
            live = [one async for one in fetching.executions(client, str(run_id), newest.run_id)]
            if not newest.is_open and _forgot_the_oldest(live, kept):
                found.notes.append(
                    "Temporal has no history of its oldest executions any more: the one that is kept was read"
                )
                found.source, found.executions = "stored", kept
                return found
            found.source, found.executions, found.is_open = "temporal", live, newest.is_open
            if not newest.is_open and recorded is not None and recorded.form:
                await asyncio.to_thread(_held_against, live, recorded, found)
            return found
        found.notes.append("Temporal has no history of it any more" if pieces else "Temporal has no history of it")
    except (RPCError, RuntimeError) as error:  # the SDK's word for a connection that fails is RuntimeError
        if not kept:
            raise Unavailable(f"Temporal does not answer, and no history is kept: {type(error).__name__}") from None
        found.notes.append("Temporal does not answer: the history that is kept was read")
    if kept:
        found.source, found.executions = "stored", kept
    return found


def _kept(run_id: UUID, recorded: Recorded | None, pieces: Sequence[bytes], found: _History) -> list[Execution]:
    """Returns the kept history, once it is known to be the one whose digest the log has."""
    altered = "witness.history_altered"
    if recorded is not None and not recorded.is_whole:
        said = "the record of the history's digest does not hash to its hash: it was altered"
        found.differences.append(Difference("witness.record_altered", said, decision_id=str(recorded.decision_id)))
    if not pieces:
        if recorded is not None and recorded.stored:
            said = "the log says that the history is kept, and nothing of it is there"
            found.differences.append(Difference(altered, said, decision_id=str(recorded.decision_id)))
        return []
    if recorded is None:
        found.differences.append(Difference(altered, "a history is kept, and no record in the log has its digest"))
        return []
    try:
        return document.opened(pieces, recorded.digest, str(run_id))
    except HistoryDamaged as damaged:
        found.differences.append(Difference(altered, damaged.message, decision_id=str(recorded.decision_id)))
        return []


def _forgot_the_oldest(live: Sequence[Execution], kept: Sequence[Execution]) -> bool:
    """Whether Temporal's history is the newest part of the kept one, and lacks what was before that."""
    if fetching.is_whole(live) or len(live) >= len(kept):
        return False
    newest = zip(live, kept, strict=False)  # the kept one goes on
    return all(one.run_id == other.run_id and one.history.events == other.history.events for one, other in newest)


def _held_against(live: Sequence[Execution], recorded: Recorded, found: _History) -> None:
    if recorded.newest != live[0].run_id:
        if recorded.newest in {one.run_id for one in live}:
            found.notes.append(
                "the workflow was reset after its history was kept: Temporal's is longer, and was read whole"
            )
            return
        if not recorded.executions:
            found.notes.append("Temporal had no history of it when the run had ended, and has one now")
            return
    sealing = Sealing()
    for one in live:
        sealing.add(one)
    if sealing.digest.hex() != recorded.digest:
        said = f"Temporal's history is not the one whose digest {recorded.digest} the log has"
        found.differences.append(Difference("witness.history_altered", said, decision_id=str(recorded.decision_id)))


async def _log(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> _Log:
    own: dict[str, object] = {"tenant_id": tenant_id, "run_id": run_id}
    run = (await connection.execute(_RUN, own)).one_or_none()
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    kinds = {**own, "kinds": list(names.EXECUTING_ACTIVITIES)}
    rows = list(await connection.execute(_ALLOWED, kinds))
    if any(row.part_a is None for row in rows):
        raise Conflict(
            f"what was evaluated in run {run_id} was deleted, so nothing is left to hold its history against",
            remedy="cross-check runs before their records are deleted: `holdfast audit retention show`",
        )
    allowed = [_allowed(row) for row in rows]
    undecided = [_undecided(row) for row in await connection.execute(_UNDECIDED, kinds)]
    return _Log(run.status, run.started, run.ended, tuple(map(str, run.children)), allowed, undecided)


def _undecided(row: Any) -> Difference:  # rows of text() carry no types
    name = f"step {row.step}, try {row.try_number} ({row.tool or row.kind})"
    said = f"hold {row.hold_id} of {name} is {row.state}, and no decision allowed it"
    return Difference("witness.no_allow", said, "", str(row.hold_id), str(row.decision_id))


def _allowed(row: Any) -> Allowed:  # rows of text() carry no types
    a, b = orjson.loads(row.part_a), orjson.loads(row.part_b)
    return Allowed(
        decision_id=str(row.decision_id),
        record_hash=row.record_hash.hex(),
        is_whole=record_hash(row.part_a, row.part_b) == row.record_hash
        and (b["decision_id"], b["hold_id"], b["verdict"]) == (str(row.decision_id), str(row.hold_id), "allow"),
        hold_id=str(row.hold_id),
        kind=a["action"]["kind"],
        step=a["subject"]["step"],
        try_number=a["subject"]["try"],
        digest=a["action_digest"],
        tool=a["action"].get("tool") or "",
        state=row.state or "",
        was_redeemed=bool(row.was_redeemed),
        went_outward=row.outward_at is not None,
        has_outcome=row.has_outcome,
        was_unknown=row.unknown_at is not None,
        lease_runs=row.lease_runs,
    )
