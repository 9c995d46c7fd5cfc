"""What of the decision log goes, and when: retention, erasure, and legal holds, which keep both from taking anything."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, IdempotencyKey, Page, PageSize, Time, claim_for, id_cursor, page_of
from holdfast.database.engine import transaction
from holdfast.errors import RequestInvalid
from holdfast.retention import erasing, keeping, legal_holds
from holdfast.retention.erasing import LegallyHeld, Scope
from holdfast.tenancy import idempotency
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1/audit", tags=["audit"])

Reason = Annotated[str, Field(min_length=1, max_length=500, description="stands in the record")]


class PutRetention(Form):
    """For how long what was evaluated is kept."""

    days: Annotated[int, Field(ge=1, le=keeping.DAYS_MAX)] | None = Field(description="null: for ever")


class Retention(Answer):
    """For how long what was evaluated is kept, and how far the deleting is."""

    days: int | None = Field(description="null: for ever")
    set_by: str = Field(description="empty: nobody has set it")
    set_at: Time | None
    records: int = Field(description="records whose part A was deleted; their hashes and verdicts stay")
    kept: int = Field(
        description="records that the last pass had to leave: of runs that had not ended, or on legal hold"
    )
    through: Time | None = Field(description="the last pass has looked at all that is older than this")
    finished_at: Time | None
    before: Time | None = Field(description="a pass is under way, and deletes what is older than this")
    pass_records: int = Field(description="what that pass has deleted so far")


class PlaceLegalHold(Form):
    """What must not be taken, and why."""

    run: Annotated[UUID, Field(strict=False)] | None = Field(default=None, description="default: the whole tenant")
    reason: Reason


class LiftLegalHold(Form):
    """Why it may be taken again."""

    reason: Reason


class LegalHold(Answer):
    """A legal hold: while it stands, neither retention nor erasure takes anything of what it is on."""

    legal_hold_id: UUID
    run_id: UUID | None = Field(description="null: the whole tenant")
    reason: str
    placed_by: str
    placed_at: Time
    lifted_at: Time | None = Field(description="null while it stands")
    lifted_by: str
    lift_reason: str


class PlacedLegalHold(LegalHold):
    """A legal hold that was placed."""

    stood: bool = Field(
        description="whether it stood already: then nothing is changed, and `reason` is the one of then"
    )

    @classmethod
    def over(cls, hold: legal_holds.LegalHold, *, stood: bool) -> Self:
        """Builds the answer."""
        return cls(**LegalHold.model_validate(hold).model_dump(), stood=stood)


class AskErasure(Form):
    """Whose personal values are to be erased: exactly one of `user`, `run` and `tenant`."""

    user: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="name of the user whose runs they are in"
    )
    run: Annotated[UUID, Field(strict=False)] | None = None
    tenant: bool = Field(default=False, description="all of the tenant")
    reason: Reason

    def scope(self) -> Scope:
        """Returns what is to be erased.

        Raises:
            RequestInvalid: It does not say exactly one thing.
        """
        if [self.user is not None, self.run is not None, self.tenant].count(True) != 1:
            raise RequestInvalid("say what to erase: exactly one of `user`, `run` and `tenant`")
        return Scope(self.user, self.run)


class Erasure(Answer):
    """An erasure of personal values."""

    erasure_id: UUID
    user: str | None
    run_id: UUID | None = Field(description="with neither run nor user, it is of the whole tenant")
    reason: str
    asked_by: str
    asked_at: Time
    runs: int = Field(description="runs whose salt was deleted")
    records: int = Field(description="records whose personal values went with it")
    held: int = Field(description="runs that were left because of a legal hold")
    open: int = Field(description="runs that were left because they had not ended")
    ended_at: Time | None = Field(description="null while it goes on")


@router.get("/retention", summary="See for how long decisions are kept")
async def get_retention(caller: Caller, parts: Parts) -> Retention:
    """Shows for how long what was evaluated is kept, and how far the deleting is."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Retention.model_validate(await keeping.read(connection, caller.tenant_id))


@router.put("/retention", summary="Set for how long decisions are kept")
async def put_retention(body: PutRetention, caller: Caller, parts: Parts) -> Retention:
    """Sets it. What is older goes within minutes, and cannot be brought back; records' hashes, verdicts and proofs stay."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Retention.model_validate(await keeping.put(connection, caller, body.days))


@router.post("/legal-holds", summary="Place a legal hold", status_code=201)
async def place_legal_hold(
    body: PlaceLegalHold, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> PlacedLegalHold:
    """Places it: from this answer on nothing of it is taken. If one stands there already, that one is answered, unchanged."""
    caller.require(OWNER, ADMIN)
    tenant_id = caller.tenant_id
    claim = claim_for(caller, "POST /v1/audit/legal-holds", idempotency_key, body.model_dump(mode="json"))
    async with transaction(parts.engine, tenant_id) as connection:
        if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
            hold = await legal_holds.read(connection, tenant_id, UUID(str(kept["legal_hold_id"])))
            return PlacedLegalHold.over(hold, stood=kept["new"] is not True)
        hold, new = await legal_holds.place(connection, caller, body.run, body.reason)
        if claim is not None:
            await idempotency.keep(connection, claim, {"legal_hold_id": str(hold.legal_hold_id), "new": new})
    return PlacedLegalHold.over(hold, stood=not new)


@router.get("/legal-holds", summary="List legal holds, newest first")
async def list_legal_holds(
    caller: Caller,
    parts: Parts,
    every: Annotated[bool, Query(alias="all", description="also those that are lifted")] = False,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[LegalHold]:
    """Lists the legal holds that stand."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await legal_holds.list_holds(
            connection, caller.tenant_id, before=id_cursor(cursor), lifted=every, count=size + 1
        )
    return page_of([LegalHold.model_validate(hold) for hold in found], [str(one.legal_hold_id) for one in found], size)


@router.post("/legal-holds/{legal_hold_id}/lift", summary="Lift a legal hold")
async def lift_legal_hold(legal_hold_id: UUID, body: LiftLegalHold, caller: Caller, parts: Parts) -> LegalHold:
    """Lifts it: retention goes on; what an erasure left has to be asked for again. Lifting again changes nothing."""
    caller.require(OWNER, ADMIN)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        hold, _ = await legal_holds.lift(connection, caller, legal_hold_id, body.reason)
    return LegalHold.model_validate(hold)


@router.post("/erasures", summary="Erase personal values", status_code=202)
async def ask_erasure(
    body: AskErasure, caller: Caller, parts: Parts, idempotency_key: IdempotencyKey = None
) -> Erasure:
    """Begins to erase the personal values in decision records of a user, a run or the tenant; it cannot be taken back.

    Ended runs that were admitted before are erased; the answer's `erasure_id` shows how far it is.
    """
    caller.require(OWNER, ADMIN)
    scope, tenant_id = body.scope(), caller.tenant_id
    claim = claim_for(caller, "POST /v1/audit/erasures", idempotency_key, body.model_dump(mode="json"))
    try:
        async with transaction(parts.engine, tenant_id) as connection:
            if claim is not None and (kept := await idempotency.claim(connection, claim)) is not None:
                found = await erasing.read(connection, tenant_id, UUID(str(kept["erasure_id"])))
                return Erasure.model_validate(found)
            erasure = await erasing.ask(connection, caller, scope, body.reason)
            if claim is not None:
                await idempotency.keep(connection, claim, {"erasure_id": str(erasure.erasure_id)})
    except LegallyHeld as refused:
        async with transaction(parts.engine, tenant_id) as connection:
            await erasing.record_refusal(connection, caller, scope, refused, body.reason)
        raise
    return Erasure.model_validate(erasure)


@router.get("/erasures", summary="List erasures, newest first")
async def list_erasures(caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50) -> Page[Erasure]:
    """Lists the tenant's erasures."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await erasing.list_erasures(connection, caller.tenant_id, before=id_cursor(cursor), count=size + 1)
    return page_of([Erasure.model_validate(each) for each in found], [str(each.erasure_id) for each in found], size)


@router.get("/erasures/{erasure_id}", summary="See how far an erasure is")
async def get_erasure(erasure_id: UUID, caller: Caller, parts: Parts) -> Erasure:
    """Shows what it has erased, what it had to leave, and whether it is done."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        return Erasure.model_validate(await erasing.read(connection, caller.tenant_id, erasure_id))
