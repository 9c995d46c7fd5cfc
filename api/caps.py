"""Caps: what may be used, what is, and changing it. Every change is journalled with who and why."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, model_validator

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, Page, PageSize, Usd, id_cursor, page_of, usd
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.errors import Conflict
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import NANO_USD
from holdfast.ledger.views import NamedCap, find_scope, list_named_caps, run_budget
from holdfast.money import parse_usd
from holdfast.tenancy.principals import ADMIN, OWNER
from holdfast_verdict.canonical import MAX_INTEGER

router = APIRouter(prefix="/v1/caps", tags=["caps"])

ScopeKind = Literal["tenant", "project", "user", "role", "run", "user_project"]
Unit = Literal["nano_usd", "tokens", "calls", "slots"]


class CapScope(Form):
    """What a cap limits."""

    kind: ScopeKind
    name: str = Field(
        default="",
        max_length=300,
        description="slug of the project, name of the user or role, id of the run, `user/project`; empty for the tenant",
    )


class PutCap(Form):
    """A limit to be set: exactly one of `limit_usd`, `limit_amount` and `unlimited`."""

    scope: CapScope
    unit: Unit = "nano_usd"
    limit_usd: Usd | None = Field(default=None, description="for the unit nano_usd")
    limit_amount: int | None = Field(default=None, ge=0, le=MAX_INTEGER, description="in the cap's unit")
    unlimited: Literal[True] | None = Field(default=None, description="an explicit and recorded choice")
    reason: str = Field(min_length=1, max_length=500, description="stands in the journal")

    @model_validator(mode="after")
    def _says_one_limit(self) -> Self:
        if sum(given is not None for given in (self.limit_usd, self.limit_amount, self.unlimited)) != 1:
            raise ValueError("give exactly one of `limit_usd`, `limit_amount` and `unlimited`")
        if self.limit_usd is not None and self.unit != NANO_USD:
            raise ValueError(f"`limit_usd`: the unit is {self.unit}, so give `limit_amount`")
        return self

    @property
    def amount(self) -> int:
        """The limit in the cap's unit; 0 if there is none."""
        return parse_usd(self.limit_usd) if self.limit_usd is not None else self.limit_amount or 0


class Cap(Answer):
    """A cap with its balances, in its unit; the law is reserved + committed + debt ≤ limit."""

    cap_id: UUID
    scope_kind: ScopeKind
    scope_id: str
    scope_name: str | None
    unit: str
    window: str
    unlimited: bool
    limit_amount: int
    reserved: int
    committed: int
    debt: int = Field(description="what was billed beyond hold and headroom; counted against the cap")
    available: int | None = Field(description="what a new hold could take; null if unlimited")
    limit_usd: str | None = Field(description="for the unit nano_usd")
    used_usd: str | None = Field(description="for the unit nano_usd: committed and debt")

    @classmethod
    def of(cls, cap: NamedCap) -> Self:
        """Builds the answer."""
        derived = ("available", "limit_usd", "used_usd")
        used = cap.committed + cap.debt
        money = cap.unit == NANO_USD
        return cls(
            **{name: getattr(cap, name) for name in cls.model_fields if name not in derived},
            available=None if cap.unlimited else max(cap.limit_amount - cap.reserved - used, 0),
            limit_usd=usd(cap.limit_amount) if money and not cap.unlimited else None,
            used_usd=usd(used) if money else None,
        )


@router.get("", summary="List caps")
async def list_caps(
    caller: Caller,
    parts: Parts,
    run: Annotated[UUID | None, Query(description="the caps of this run; default: all that are not of a run")] = None,
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Cap]:
    """Lists caps with limit, reserved, committed and debt."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        caps = await list_named_caps(connection, caller.tenant_id, after=id_cursor(cursor), run_id=run, count=size + 1)
    return page_of([Cap.of(cap) for cap in caps], [str(cap.cap_id) for cap in caps], size)


@router.put("", summary="Set a cap")
async def put_cap(body: PutCap, caller: Caller, parts: Parts) -> Cap:
    """Sets a limit, making the cap if need be. Raising pays off debt; lowering stops new holds and never running ones."""
    caller.require(OWNER, ADMIN)
    unlimited = body.unlimited is True
    async with transaction(parts.engine, caller.tenant_id) as connection:
        scope = await find_scope(connection, caller.tenant_id, body.scope.kind, body.scope.name)
        if scope.kind == "run" and body.unit == NANO_USD:
            budget = await run_budget(connection, caller.tenant_id, UUID(scope.scope_id))
            if budget is not None and (unlimited or body.amount > budget):
                # LAW 3: the caps above have given this run that much and no more
                raise Conflict(f"the run's guaranteed budget is ${usd(budget)}: its cap cannot be higher")
        cap_id = await set_limit(
            connection,
            caller.tenant_id,
            scope,
            body.unit,
            limit_amount=body.amount,
            unlimited=unlimited,
            actor=caller.actor,
            reason=body.reason,
        )
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "cap.set",
            f"the {body.unit} cap on {scope.kind} is " + ("unlimited" if unlimited else str(body.amount)),
            {
                "cap_id": str(cap_id),
                "scope": [scope.kind, scope.scope_id],
                "unit": body.unit,
                "limit": None if unlimited else str(body.amount),
                "reason": body.reason,
            },
        )
        (cap,) = await list_named_caps(connection, caller.tenant_id, cap_id=cap_id)
    return Cap.of(cap)
