"""Emergency stops: set one, see which are on, lift it. Every change is recorded with who and why."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, IdempotencyKey, Page, PageSize, Time, claim_for, id_cursor, page_of
from holdfast.database.engine import transaction
from holdfast.ledger import stops
from holdfast.ledger.stops import ScopeKind
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1/stops", tags=["stops"])

Reason = Annotated[str, Field(min_length=1, max_length=500)]


class StopScope(Form):
    """What is stopped."""

    kind: ScopeKind
    name: str = Field(default="", max_length=300, description="of the agent, role or tool; empty for the tenant")


class SetStop(Form):
    """What to stop, and why."""

    scope: StopScope
    reason: Reason = Field(description="quoted wherever something is refused, also to the model")


class LiftStop(Form):
    """Why it may go on."""

    reason: Reason = Field(description="stands in the record")


class Stop(Answer):
    """An emergency stop; it is on until it is lifted."""

    stop_id: UUID
    scope_kind: ScopeKind
    scope_name: str
    reason: str
    actor: str = Field(description="who set it")
    created_at: Time
    lifted_at: Time | None = Field(description="null while it is on")
    lifted_by: str
    lift_reason: str


class StandingStop(Stop):
    """A stop that was set."""

    was_on: bool = Field(
        description="whether it was on already: then nothing is changed, and `reason` is the one of then"
    )
    outside: int = Field(
        description="actions of its scope that had gone outside and are not back: no stop calls them back"
    )

    @classmethod
    def over(cls, stop: stops.Stop, *, was_on: bool, outside: int) -> Self:
        """Builds the answer."""
        return cls(**Stop.model_validate(stop).model_dump(), was_on=was_on, outside=outside)


@router.post("", summary="Stop everything of a tenant, agent, role or tool", status_code=201)
async def set_stop(body: SetStop, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None) -> StandingStop:
    """Stops it: from this answer on nothing of its scope begins to go outside, whatever permits were given before.

    If a stop is on there already, that one is answered, unchanged.
    """
    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    claim = claim_for(caller, "POST /v1/stops", idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            stop, new = await stops.read_stop(connection, tenant_id, UUID(str(kept["stop_id"]))), kept["new"] is True
        else:
            stop, new = await stops.put_stop(connection, caller, body.scope.kind, body.scope.name, body.reason)
            if claim is not None:
                await idempotency.keep(connection, claim, {"stop_id": str(stop.stop_id), "new": new})
    # after the commit: what was just going outside has gone by now
    async with transaction(parts.engine, tenant_id) as connection:
        outside = await stops.count_outside(connection, tenant_id, stop)
    return StandingStop.over(stop, was_on=not new, outside=outside)


@router.get("", summary="List stops, newest first")
async def list_stops(
    caller: Caller,
    parts: Parts,
    every: Annotated[bool, Query(alias="all", description="also those that are lifted")] = False,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Stop]:
    """Lists the stops that are on."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await stops.list_stops(
            connection, caller.tenant_id, before=id_cursor(cursor), lifted=every, count=size + 1
        )
    return page_of([Stop.model_validate(stop) for stop in found], [str(stop.stop_id) for stop in found], size)


@router.post("/{stop_id}/lift", summary="Lift a stop")
async def lift_stop(
    stop_id: UUID, body: LiftStop, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> Stop:
    """Lifts a stop: what is asked from now on is decided as before it. Lifting again changes nothing."""
    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    claim = claim_for(caller, f"POST /v1/stops/{stop_id}/lift", idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and await idempotency.claim(connection, claim) is not None:
            return Stop.model_validate(await stops.read_stop(connection, tenant_id, stop_id))
        stop, _ = await stops.lift_stop(connection, caller, stop_id, body.reason)
        if claim is not None:
            await idempotency.keep(connection, claim, {"stop_id": str(stop_id)}, status=200)
    return Stop.model_validate(stop)
