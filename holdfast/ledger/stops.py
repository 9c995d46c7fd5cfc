"""Emergency stops: on the whole tenant, an agent, a role or a tool, until somebody lifts them.

The ledger's functions look at them when a hold is granted, when its permit is redeemed, and right before anything goes outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_change
from holdfast.errors import NotFound, RequestInvalid
from holdfast.ids import new_id
from holdfast.runs.versions import newest_agent, newest_role
from holdfast.tenancy.principals import Principal
from holdfast.tools.toolset import BUILTIN
from holdfast.tools.versions import newest_tool
from holdfast_verdict.canonical import JsonValue

ScopeKind = Literal["tenant", "agent", "role", "tool"]

# A lock on the tenant's stops: one that is to be set is not there to be locked yet.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")
# The gate of `begin_outward`. INVARIANT: taken after the stop was written and kept until it is committed, so that nothing goes
# outside with a look at the stops that is older than the stop.
_WAIT_FOR_OUTWARD = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant, 2))")
_INSERT = text("""
    INSERT INTO stops (tenant_id, stop_id, scope_kind, scope_name, reason, actor)
    VALUES (:tenant_id, :stop_id, :kind, :name, :reason, :actor)
""")
_LIFT = text("""
    UPDATE stops SET lifted_at = clock_timestamp(), lifted_by = :actor, lift_reason = :reason
    WHERE tenant_id = :tenant_id AND stop_id = :stop_id
""")
_STANDING = text("""
    SELECT stop_id FROM stops WHERE tenant_id = :tenant_id AND scope_kind = :kind AND scope_name = :name AND lifted_at IS NULL
""")
_READ = text("""
    SELECT stop_id, scope_kind, scope_name, reason, actor, created_at, lifted_at, lifted_by, lift_reason FROM stops
    WHERE tenant_id = :tenant_id AND stop_id = :stop_id
""")
_LIST = text("""
    SELECT stop_id, scope_kind, scope_name, reason, actor, created_at, lifted_at, lifted_by, lift_reason FROM stops
    WHERE tenant_id = :tenant_id AND (CAST(:before AS uuid) IS NULL OR stop_id < :before)
      AND (lifted_at IS NULL OR CAST(:lifted AS boolean)) ORDER BY stop_id DESC LIMIT :count
""")
_ACTIVE_ON_RUN = text("""
    SELECT reason FROM stops WHERE tenant_id = :tenant_id AND lifted_at IS NULL
      AND (scope_kind, scope_name) IN (('tenant', ''), ('agent', :agent), ('role', :role)) ORDER BY stop_id LIMIT 1
""")
_OUTSIDE = text("""
    SELECT count(*) FROM holds h JOIN runs r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    WHERE h.tenant_id = :tenant_id AND h.settled_at IS NULL AND h.state = 'executing' AND h.outward_at IS NOT NULL
      AND (:kind, :name) IN (('tenant', ''), ('agent', r.agent_name), ('role', r.role_name), ('tool', h.tool))
""")


@dataclass(frozen=True, slots=True)
class Stop:
    """An emergency stop.

    Attributes:
        scope_name: Name of the agent, role or tool; empty for the tenant.
        actor: Who set it.
        lifted_at: None while it is on.
    """

    stop_id: UUID
    scope_kind: ScopeKind
    scope_name: str
    reason: str
    actor: str
    created_at: datetime
    lifted_at: datetime | None
    lifted_by: str
    lift_reason: str

    @property
    def on(self) -> str:
        """What it is on, in words."""
        return f"{self.scope_kind} {self.scope_name}".strip()


async def put_stop(
    connection: AsyncConnection, principal: Principal, kind: ScopeKind, name: str, reason: str
) -> tuple[Stop, bool]:
    """Sets a stop, or finds the one that is on there already. From the commit on, nothing of its scope begins to go outside.

    Args:
        connection: The caller's transaction, which should end right after this.
        principal: Who sets it.
        kind: What is stopped.
        name: Which one; nothing for the tenant.
        reason: Why; whoever and whatever meets the stop reads it.

    Returns:
        The stop, and whether it is a new one.

    Raises:
        NotFound: The tenant has no such agent, role or tool.
        RequestInvalid: The name does not go with the kind.
    """
    tenant_id = principal.tenant_id
    await _check_name(connection, tenant_id, kind, name)
    await connection.execute(_LOCK, {"name": f"{tenant_id} stops"})
    scope = {"tenant_id": tenant_id, "kind": kind, "name": name}
    standing: UUID | None = await connection.scalar(_STANDING, scope)
    if standing is not None:
        return await read_stop(connection, tenant_id, standing), False
    stop_id = new_id()
    await connection.execute(_INSERT, {**scope, "stop_id": stop_id, "reason": reason, "actor": principal.actor})
    stop = await read_stop(connection, tenant_id, stop_id)
    await _record(connection, principal, stop, "stop.set", f"{stop.on} is stopped", reason)
    await connection.execute(_WAIT_FOR_OUTWARD, {"tenant": str(tenant_id)})
    return stop, True


async def lift_stop(connection: AsyncConnection, principal: Principal, stop_id: UUID, reason: str) -> tuple[Stop, bool]:
    """Lifts a stop; one that is lifted already stays as it is.

    Returns:
        The stop, and whether it was on until now.

    Raises:
        NotFound: The tenant has no such stop.
    """
    tenant_id = principal.tenant_id
    await connection.execute(_LOCK, {"name": f"{tenant_id} stops"})
    standing = await read_stop(connection, tenant_id, stop_id)
    if standing.lifted_at is not None:
        return standing, False
    lifted = {"tenant_id": tenant_id, "stop_id": stop_id, "actor": principal.actor, "reason": reason}
    await connection.execute(_LIFT, lifted)
    stop = await read_stop(connection, tenant_id, stop_id)
    await _record(connection, principal, stop, "stop.lifted", f"the stop on {stop.on} is lifted", reason)
    return stop, True


async def list_stops(
    connection: AsyncConnection, tenant_id: UUID, *, before: UUID | None, lifted: bool, count: int
) -> list[Stop]:
    """Returns stops, newest first: those that are on, and with `lifted` those that were."""
    given = {"tenant_id": tenant_id, "before": before, "lifted": lifted, "count": count}
    return [Stop(*row) for row in await connection.execute(_LIST, given)]


async def read_stop(connection: AsyncConnection, tenant_id: UUID, stop_id: UUID) -> Stop:
    """Returns a stop.

    Raises:
        NotFound: The tenant has no such stop.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "stop_id": stop_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no stop {stop_id}")
    return Stop(*row)


async def count_outside(connection: AsyncConnection, tenant_id: UUID, stop: Stop) -> int:
    """Returns how many actions of a stop's scope have gone outside and are not back: no stop calls them back."""
    scope = {"tenant_id": tenant_id, "kind": stop.scope_kind, "name": stop.scope_name}
    count: int = (await connection.execute(_OUTSIDE, scope)).scalar_one()
    return count


async def stop_on_run(connection: AsyncConnection, tenant_id: UUID, agent: str, role: str) -> str | None:
    """Returns the reason of a stop under which no run of the agent could do anything, if one is on."""
    given = {"tenant_id": tenant_id, "agent": agent, "role": role}
    reason: str | None = await connection.scalar(_ACTIVE_ON_RUN, given)
    return reason


async def _check_name(connection: AsyncConnection, tenant_id: UUID, kind: ScopeKind, name: str) -> None:
    if kind == "tenant":
        if name:
            raise RequestInvalid(
                "scope.name: a stop on the tenant is on the caller's own tenant", remedy="leave the name out"
            )
        return
    if not name:
        raise RequestInvalid(f"scope.name: say which {kind}")
    if kind == "agent":
        await newest_agent(connection, tenant_id, name)
    elif kind == "role":
        await newest_role(connection, tenant_id, name)
    elif name not in BUILTIN:
        await newest_tool(connection, tenant_id, name)


async def _record(
    connection: AsyncConnection, principal: Principal, stop: Stop, code: str, message: str, reason: str
) -> None:
    change: dict[str, JsonValue] = {
        "stop_id": str(stop.stop_id),
        "scope": [stop.scope_kind, stop.scope_name],
        "reason": reason,
    }
    await record_change(connection, principal.tenant_id, principal, code, message, change)
