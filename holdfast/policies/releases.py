"""Releases: somebody takes responsibility for what a run has read under a label, for rules that say `released by role("…")`.

A release speaks of what the run had read when it was made, and of nothing that it reads later. What was still under way then is not
released: nobody can have seen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.actions.run_facts import RunFacts
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import Conflict, NotFound, NotPermitted
from holdfast.ids import new_id
from holdfast.ledger.types import Event, TryKey
from holdfast.policies.family import FAMILY, FAMILY_MAX
from holdfast.policies.readings import Readings, by_label, read_holds
from holdfast.tenancy.principals import BUILT_IN, Principal
from holdfast.timeline import events
from holdfast_verdict.engine.facts import Release as Fact

_COLUMNS: Final = "release_id, run_id, label, released_by, roles, reason, decision_id, created_at"
_LOCK_RUN: Final = text("""
    SELECT user_id, ended_at IS NOT NULL AS ended FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id FOR NO KEY UPDATE
""")
# the run's row is locked, so a hold of it that is not settled for this statement is settled after the release, or waits for it
_INSERT: Final = text(f"""
    WITH RECURSIVE {FAMILY}
    INSERT INTO releases (tenant_id, release_id, run_id, label, released_by, roles, reason, decision_id, open_holds)
    SELECT :tenant_id, :release_id, :run_id, :label, :released_by, :roles, :reason, :decision_id, ARRAY(
        SELECT h.hold_id FROM family f JOIN holds h ON h.tenant_id = :tenant_id AND h.run_id = f.run_id WHERE h.settled_at IS NULL)
    RETURNING {_COLUMNS}
""")  # noqa: S608 (a constant of this module)
_USER: Final = text("SELECT user_id FROM runs WHERE tenant_id = :tenant_id AND run_id = :run_id")
_LIST: Final = text(f"""
    SELECT {_COLUMNS} FROM releases WHERE tenant_id = :tenant_id AND run_id = :run_id ORDER BY release_id DESC LIMIT 200
""")  # noqa: S608 (a constant of this module)
_OF_RUN: Final = text("""
    SELECT label, released_by, roles, created_at, open_holds FROM releases
    WHERE tenant_id = :tenant_id AND run_id = :run_id ORDER BY release_id
""")


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it was made.

    Attributes:
        released_by: Who made it.
        roles: The roles that the key had.
        decision_id: Its record.
    """

    release_id: UUID
    run_id: UUID
    label: str
    released_by: str
    roles: list[str]
    reason: str
    decision_id: UUID
    created_at: datetime


class ReleaseRefused(NotPermitted):
    """Who releases has started the run."""

    code = "release.not_eligible"


def _may_look(principal: Principal, user_id: UUID) -> bool:
    """A role that policies name is there to consent, also for a key that sees nothing else of the tenant."""
    return principal.sees_all or user_id == principal.user_id or not principal.roles <= BUILT_IN


async def release(
    connection: AsyncConnection, principal: Principal, run_id: UUID, label: str, reason: str
) -> tuple[Release, int]:
    """Releases what a run has read so far under a label; says with which roles, and rules say which of them count.

    Returns:
        The release, and the number of the new event.

    Raises:
        NotFound: There is no such run for this principal.
        ReleaseRefused: The principal has started it.
        Conflict: The run has ended.
    """
    tenant_id = principal.tenant_id
    row = (await connection.execute(_LOCK_RUN, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None or not _may_look(principal, row.user_id):
        raise NotFound(f"there is no run {run_id}")
    if row.user_id == principal.user_id:
        raise ReleaseRefused(
            "who started a run cannot release what it has read",
            remedy="ask somebody else of the role that the rule names",
        )
    if row.ended:
        raise Conflict("the run has ended", remedy="a release is for what a run does next")
    decision_id = new_id()
    made = (
        await connection.execute(
            _INSERT,
            {
                "tenant_id": tenant_id,
                "release_id": new_id(),
                "run_id": run_id,
                "label": label,
                "released_by": principal.user,
                "roles": sorted(principal.roles),
                "reason": reason,
                "decision_id": decision_id,
                "family_max": FAMILY_MAX,
            },
        )
    ).one()
    await record_event(
        connection,
        tenant_id,
        kind="release",
        verdict="allow",
        code="label.released",
        message=f"{principal.user} has released what the run had read under {label}",
        facts={"subject": subject_of(principal), "run": str(run_id), "label": label, "reason": reason},
        run_id=run_id,
        decision_id=decision_id,
    )
    told = Event("decision", "label.released", {"label": label, "by": principal.user, "roles": sorted(principal.roles)})
    return Release(**made._mapping), await events.append(connection, tenant_id, run_id, [told])


async def list_releases(connection: AsyncConnection, principal: Principal, run_id: UUID) -> list[Release]:
    """Returns the newest 200 releases of a run, newest first.

    Raises:
        NotFound: There is no such run for this principal.
    """
    parameters = {"tenant_id": principal.tenant_id, "run_id": run_id}
    user_id: UUID | None = await connection.scalar(_USER, parameters)
    if user_id is None or not _may_look(principal, user_id):
        raise NotFound(f"there is no run {run_id}")
    return [Release(**row._mapping) for row in await connection.execute(_LIST, parameters)]


async def released(connection: AsyncConnection, run: RunFacts, readings: Readings, key: TryKey) -> tuple[Fact, ...]:
    """Returns the releases that cover everything that a run has read under their label.

    Args:
        connection: The caller's transaction.
        run: The run.
        readings: What it and the others of its family have read.
        key: What is decided.
    """
    rows = (await connection.execute(_OF_RUN, {"tenant_id": run.tenant_id, "run_id": run.run_id})).all()
    once_open = sorted({hold_id for row in rows for hold_id in row.open_holds})
    opened = await read_holds(connection, key, once_open, readings.by_run)
    read, read_open = by_label(run, readings.all), by_label(run, opened)
    facts = []
    for row in rows:
        was_settled = all(
            not reading.is_open and reading.settled_at is not None and reading.settled_at < row.created_at
            for reading in read.get(row.label, ())
        )
        # what was open for the release may have begun to be settled before it
        if was_settled and set(row.open_holds).isdisjoint(each.hold_id for each in read_open.get(row.label, ())):
            facts.append(Fact(row.label, row.released_by, tuple(row.roles)))
    return tuple(facts)
