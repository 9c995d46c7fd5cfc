"""Caps: what may be used, what is, and changing it. Every change is journalled with who and why."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, Field, model_validator

from api.authentication import Caller, require_reader
from api.context import Parts
from api.forms import Answer, Cursor, Form, Page, PageSize, Time, Usd, id_cursor, number_cursor, page_of, usd
from holdfast.database.engine import transaction
from holdfast.decisions.record import record_change
from holdfast.errors import Conflict, NotFound, RequestInvalid
from holdfast.ledger.core import per_window
from holdfast.ledger.scopes import ScopeKind
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import NANO_USD
from holdfast.ledger.views import (
    LimitChange,
    NamedCap,
    find_scope,
    list_changes,
    list_named_caps,
    list_windows,
    run_budget,
)
from holdfast.ledger.windows import PATTERN, require_window
from holdfast.money import parse_usd
from holdfast.tenancy.principals import ADMIN, OWNER
from holdfast_verdict.canonical import MAX_INTEGER

router = APIRouter(prefix="/v1/caps", tags=["caps"])

Unit = Literal["nano_usd", "tokens", "calls", "slots"]

Window = Annotated[
    str, AfterValidator(require_window), Field(json_schema_extra={"pattern": PATTERN}, examples=["day", "24h"])
]
"""A window's name in requests."""


class CapScope(Form):
    """What a cap limits."""

    kind: ScopeKind
    name: str = Field(
        default="",
        max_length=300,
        description="slug of the project, name of the user or role, id of the run, `user/project`, `user/role`, `project/role`; "
        "empty for the tenant",
    )


class PutCap(Form):
    """A limit to be set: exactly one of `limit_usd`, `limit_amount` and `unlimited`."""

    scope: CapScope
    unit: Unit = "nano_usd"
    window: Window = Field(
        default="total",
        description="for how long what was used counts: `total` for ever; `hour`, `day` or `month` within one of the tenant's time "
        "zone; `1h` to `744h` for so many hours back from any moment. A scope has one cap for each unit and window, and all of them "
        "apply",
    )
    limit_usd: Usd | None = Field(default=None, description="for the unit nano_usd")
    limit_amount: int | None = Field(default=None, ge=0, le=MAX_INTEGER, description="in the cap's unit")
    unlimited: Literal[True] | None = Field(default=None, description="an explicit and recorded choice")
    thresholds: list[Annotated[int, Field(ge=1, le=100)]] | None = Field(
        default=None,
        max_length=10,
        description="percentages of the limit that are told once a window, as `cap.threshold` of the run that reaches them; in a "
        "rolling one again once use has fallen below; default: as they are, at first 50, 80 and 100",
    )
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
    """A cap with its balances in one window, in its unit; the law is reserved + committed + debt ≤ limit.

    A rolling cap in force is all hours that count together; among its windows, each of those hours stands alone.
    """

    cap_id: UUID = Field(description="of this window; any window of a cap stands for the cap")
    scope_kind: ScopeKind
    scope_id: str
    scope_name: str | None
    unit: str
    window: str
    starts_at: Time | None = Field(
        description="when the window began, or since when what was taken counts in a rolling one; null for `total`"
    )
    ends_at: Time | None = Field(
        description="when it ends and nothing of it counts any more, or when a rolling one moves on by an hour; null for `total`"
    )
    in_force: bool = Field(description="whether it is the window in force, else a past one")
    unlimited: bool
    limit_amount: int
    reserved: int
    committed: int
    debt: int = Field(description="what was billed beyond hold and headroom; counted against the cap")
    available: int | None = Field(description="what a new hold could take; null if unlimited")
    thresholds: list[int] = Field(description="percentages of the limit that are told once a window")
    thresholds_passed: list[int] = Field(description="those that this window has reached")
    leaves_at: Time | None = Field(
        description="of a rolling cap in force: when the oldest hour of which something counts leaves; null if nothing counts"
    )
    leaves: int | None = Field(description="how much of reserved, committed and debt leaves then")
    limit_usd: str | None = Field(description="for the unit nano_usd")
    used_usd: str | None = Field(description="for the unit nano_usd: committed and debt")

    @classmethod
    def of(cls, cap: NamedCap) -> Self:
        """Builds the answer."""
        derived = ("available", "limit_usd", "used_usd", "thresholds_passed", "in_force")
        used = cap.committed + cap.debt
        money = cap.unit == NANO_USD
        return cls(
            **{name: getattr(cap, name) for name in cls.model_fields if name not in derived},
            available=None if cap.unlimited else max(cap.limit_amount - cap.reserved - used, 0),
            in_force=cap.newest,
            thresholds_passed=[percent for percent in cap.thresholds if percent <= cap.threshold_passed],
            limit_usd=usd(cap.limit_amount) if money and not cap.unlimited else None,
            used_usd=usd(used) if money else None,
        )


class CapChange(Answer):
    """A change of a cap's limit: who, why, when, from what to what. Null stands for no limit."""

    change_id: int
    actor: str
    reason: str
    created_at: Time
    made: bool = Field(description="whether this made the cap, so that there was nothing before")
    from_amount: int | None
    to_amount: int | None
    debt_paid: int = Field(description="debt that the new limit has made room for")

    @classmethod
    def of(cls, change: LimitChange) -> Self:
        """Builds the answer."""
        return cls(
            change_id=change.entry_id,
            actor=change.actor,
            reason=change.reason,
            created_at=change.created_at,
            made=change.from_amount is None,
            from_amount=None if change.from_unlimited else change.from_amount,
            to_amount=None if change.to_unlimited else change.to_amount,
            debt_paid=change.debt_paid,
        )


@router.get("", summary="List caps")
async def list_caps(
    caller: Caller,
    parts: Parts,
    run: Annotated[UUID | None, Query(description="the caps of this run; default: all that are not of a run")] = None,
    scope_kind: Annotated[ScopeKind | None, Query(description="the caps on one thing of this kind")] = None,
    scope_name: Annotated[str, Query(max_length=300, description="which one, as `PUT /v1/caps` takes it")] = "",
    cursor: Cursor = None,
    size: PageSize = 50,
) -> Page[Cap]:
    """Lists caps with limit, reserved, committed and debt in the window in force, and when that ends."""
    require_reader(caller)
    if scope_name and scope_kind is None:
        raise RequestInvalid("`scope_name`: say of which `scope_kind`", remedy="send both, or neither")
    after = id_cursor(cursor)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        scope = None if scope_kind is None else await find_scope(connection, caller.tenant_id, scope_kind, scope_name)
        caps = await list_named_caps(connection, caller.tenant_id, after=after, run_id=run, scope=scope, count=size + 1)
    return page_of([Cap.of(cap) for cap in caps], [str(cap.cap_id) for cap in caps], size)


@router.get("/{cap_id}", summary="Show a cap")
async def get_cap(cap_id: UUID, caller: Caller, parts: Parts) -> Cap:
    """Shows one window of a cap with its limit and what is used of it."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await list_named_caps(connection, caller.tenant_id, cap_id=cap_id)
    if not found:
        raise NotFound(f"there is no cap {cap_id}")
    return Cap.of(found[0])


@router.get("/{cap_id}/windows", summary="List a cap's windows, newest first")
async def list_cap_windows(
    cap_id: UUID, caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[Cap]:
    """Lists the windows of a cap as they stand in the books: the newest that was used, and all before it."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        caps = await list_windows(connection, caller.tenant_id, cap_id, before=id_cursor(cursor), count=size + 1)
    return page_of([Cap.of(cap) for cap in caps], [str(cap.cap_id) for cap in caps], size)


@router.get("/{cap_id}/changes", summary="List the changes of a cap's limit, newest first")
async def list_cap_changes(
    cap_id: UUID, caller: Caller, parts: Parts, cursor: Cursor = None, size: PageSize = 50
) -> Page[CapChange]:
    """Lists who has set a cap's limit, in all its windows: from what to what, when and why; from the journal."""
    require_reader(caller)
    async with transaction(parts.engine, caller.tenant_id) as connection:
        changes = await list_changes(connection, caller.tenant_id, cap_id, before=number_cursor(cursor), count=size + 1)
    return page_of([CapChange.of(change) for change in changes], [str(change.entry_id) for change in changes], size)


@router.put("", summary="Set a cap")
async def put_cap(body: PutCap, caller: Caller, parts: Parts) -> Cap:
    """Sets a limit, making the cap if need be. Raising pays off debt; lowering stops new holds and never running ones."""
    caller.require(OWNER, ADMIN)
    unlimited = body.unlimited is True
    async with transaction(parts.engine, caller.tenant_id) as connection:
        scope = await find_scope(connection, caller.tenant_id, body.scope.kind, body.scope.name)
        if scope.kind == "run" and body.unit == NANO_USD and body.window == "total":
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
            window=body.window,
            thresholds=None if body.thresholds is None else sorted(set(body.thresholds)),
        )
        await record_change(
            connection,
            caller.tenant_id,
            caller,
            "cap.set",
            f"the {body.unit} cap on {scope.kind}{per_window(body.window)} is "
            + ("unlimited" if unlimited else str(body.amount)),
            {
                "cap_id": str(cap_id),
                "scope": [scope.kind, scope.scope_id],
                "unit": body.unit,
                "window": body.window,
                "thresholds": None if body.thresholds is None else [*body.thresholds],
                "limit": None if unlimited else str(body.amount),
                "reason": body.reason,
            },
        )
        (cap,) = await list_named_caps(connection, caller.tenant_id, cap_id=cap_id)
    return Cap.of(cap)
