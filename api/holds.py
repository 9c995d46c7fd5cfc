"""Holds: what is reserved for which action, and settling by a person what nobody else knows."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, JsonValue

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import (
    Answer,
    Cursor,
    Form,
    IdempotencyKey,
    Page,
    PageSize,
    Time,
    Usd,
    claim_for,
    id_cursor,
    page_of,
    usd,
)
from api.runs import hear
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_event, subject_of
from holdfast.errors import NotFound
from holdfast.ledger.service import resolve_unknown
from holdfast.ledger.views import HoldRow, list_holds
from holdfast.money import parse_usd
from holdfast.runs import reading, signals
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1/holds", tags=["holds"])

HoldState = Literal["held", "executing", "executed", "committed", "voided", "expired", "unknown"]


class Hold(Answer):
    """A hold: the worst case of one try of an action, reserved before it ran."""

    hold_id: UUID
    run_id: UUID
    step: int
    try_number: int
    kind: str
    tool: str
    state: HoldState
    idempotent: bool = Field(description="whether the action may be tried again while the outcome is unknown")
    action: dict[str, JsonValue]
    decision_id: UUID
    max_cost_nano_usd: int
    max_cost_usd: str
    cost_nano_usd: int | None
    cost_usd: str | None
    created_at: Time
    expires_at: Time
    outward_at: Time | None = Field(description="when its request began to leave; null: nothing went outside")
    unknown_at: Time | None
    settled_at: Time | None
    settled_by: str

    @classmethod
    def of(cls, row: HoldRow) -> Self:
        """Builds the answer."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name not in ("max_cost_usd", "cost_usd")}
        cost = None if row.cost_nano_usd is None else usd(row.cost_nano_usd)
        return cls(**fields, max_cost_usd=usd(row.max_cost_nano_usd), cost_usd=cost)


class ResolveHold(Form):
    """What a person knows about an unknown outcome."""

    happened: bool = Field(description="whether the action took effect")
    cost_usd: Usd | None = Field(default=None, description="default: the whole hold if it happened, else nothing")
    reason: str = Field(min_length=1, max_length=500, description="how that is known; stands in the journal")


@router.get("", summary="List holds, newest first")
async def list_holds_(
    caller: Caller,
    parts: Parts,
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    state: HoldState | None = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Hold]:
    """Lists holds; `state=unknown` are those that wait for a person or for their deadline."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        rows = await list_holds(
            connection, caller.tenant_id, before=id_cursor(cursor), run_id=run, state=state, count=size + 1
        )
    return page_of([Hold.of(row) for row in rows], [str(row.hold_id) for row in rows], size)


@router.get("/{hold_id}", summary="Look at a hold")
async def get_hold(hold_id: UUID, caller: Caller, parts: Parts) -> Hold:
    """Shows one hold."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        rows = await list_holds(connection, caller.tenant_id, hold_id=hold_id)
    if not rows:
        raise NotFound(f"there is no hold {hold_id}")
    return Hold.of(rows[0])


@router.post("/{hold_id}/resolve", summary="Say what became of an unknown outcome")
async def resolve_hold(
    hold_id: UUID, body: ResolveHold, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> Hold:
    """Settles a hold whose outcome is unknown, on a person's word, and lets the run go on."""
    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    operation = f"POST /v1/holds/{hold_id}/resolve"
    claim = claim_for(caller, operation, idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        rows = await list_holds(connection, tenant_id, hold_id=hold_id)
        if not rows:
            raise NotFound(f"there is no hold {hold_id}")
        run_id = rows[0].run_id
        if claim is None or await idempotency.claim(connection, claim) is None:
            await resolve_unknown(
                connection,
                tenant_id,
                hold_id,
                happened=body.happened,
                cost_nano_usd=None if body.cost_usd is None else parse_usd(body.cost_usd),
                actor=caller.actor,
                reason=body.reason,
            )
            await record_event(
                connection,
                tenant_id,
                kind="hold.resolution",
                verdict="allow",
                code="hold.resolved",
                message=f"{caller.user} says that it {'happened' if body.happened else 'did not happen'}",
                facts={"subject": subject_of(caller), "resolution": body.model_dump(mode="json")},
                run_id=run_id,
                hold_id=hold_id,
            )
            if claim is not None:
                await idempotency.keep(connection, claim, {"hold_id": str(hold_id)}, status=200)
        (row,) = await list_holds(connection, tenant_id, hold_id=hold_id)
        newest = (await reading.read_run(connection, tenant_id, run_id)).newest_event
    await parts.publisher.poke(tenant_id, run_id, newest)
    await hear(parts, "resolution", signals.deliver_resolution(parts.temporal, run_id, hold_id))
    return Hold.of(row)
