"""What was spent, by anything that a run has: pages of groups, or all of them as CSV."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import date
from typing import Annotated, Final, Literal, Self
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.authentication import Caller, require_reader
from api.context import EXPORTS_MAX, Context, Parts
from api.forms import Answer, PageSize, page_of, text_cursor, usd
from holdfast.database.engine import transaction
from holdfast.errors import RequestInvalid, Unavailable
from holdfast.ledger.spend import SpendFilter, Spent, check_dimensions, check_filter, export_spend, position, read_spend

router = APIRouter(prefix="/v1/spend", tags=["spend"])
_log = structlog.get_logger("api.spend")

WRITE_TIMEOUT_S: Final = 20.0
"""A client that takes nothing of an export for so long is dropped: its snapshot of the database is not kept for it."""
_CSV: Final = "text/csv"
_GROUP_BY: Final = (
    "dimensions, separated by commas: tenant, project, user, run, agent, role, model, tool, kind, day, simulated"
)
SpendCursor = Annotated[str | None, Query(max_length=8_000, description="`next_cursor` of the page before")]
_Named = Annotated[str | None, Query(max_length=300)]


class SpentAnswer(Answer):
    """What committed holds came to, worst cases and people's words included; nothing that is still held."""

    holds: int = Field(description="committed holds")
    calls: int
    tokens: int = Field(description="what went in and what came out")
    input_tokens: int
    cached_tokens: int = Field(description="what of the input the provider read from its cache")
    output_tokens: int
    cost_nano_usd: int
    cost_usd: str
    simulated_nano_usd: int = Field(
        description="the part of the cost that a simulated provider caused: nobody bills it"
    )
    simulated_usd: str

    @classmethod
    def of(cls, spent: Spent) -> Self:
        """Builds the answer."""
        derived = ("output_tokens", "cost_usd", "simulated_usd", "group")
        return cls(
            **{name: getattr(spent, name) for name in cls.model_fields if name not in derived},
            **({"group": dict(spent.group)} if "group" in cls.model_fields else {}),
            output_tokens=spent.tokens - spent.input_tokens,
            cost_usd=usd(spent.cost_nano_usd),
            simulated_usd=usd(spent.simulated_nano_usd),
        )


class SpendGroup(SpentAnswer):
    """One group: the value of each dimension, and what it came to."""

    group: dict[str, str] = Field(description="a value for each dimension, all text; a day is YYYY-MM-DD")


class Spend(Answer):
    """Groups, and what all of them, on all pages, come to; there are more if `next_cursor` is not null."""

    group_by: list[str]
    time_zone: str = Field(description="the tenant's: in it a day begins and ends")
    total: SpentAnswer
    items: list[SpendGroup]
    next_cursor: str | None


class SpendExport(Response):
    """Writes CSV as it comes from the database; a client that is too slow is dropped."""

    media_type = _CSV

    def __init__(self, parts: Context, tenant_id: UUID, dimensions: list[str], wanted: SpendFilter) -> None:
        super().__init__(headers={"content-disposition": 'attachment; filename="spend.csv"'})
        del self.headers["content-length"]
        self._parts = parts
        self._tenant_id = tenant_id
        self._dimensions = dimensions
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the export."""
        self._parts.exports += 1
        try:
            await self._write(send)
        except TimeoutError:
            _log.info("spend.slow_client_dropped")  # nothing more can be written; the server closes the connection
        finally:
            self._parts.exports -= 1

    async def _write(self, send: Send) -> None:
        async with transaction(self._parts.engine, self._tenant_id) as connection:
            begun = False
            async with aclosing(export_spend(connection, self._tenant_id, self._dimensions, self._wanted)) as lines:
                async for line in lines:
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        if not begun:  # not before the database has answered: what it refuses is an error with a status
                            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                            begun = True
                        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get(
    "",
    summary="See what was spent",
    response_model=Spend,
    responses={
        200: {
            "description": "a page of groups; with `format=csv` all of them as CSV, with a heading",
            "content": {_CSV: {"schema": {"type": "string"}}},
        }
    },
)
async def get_spend(
    caller: Caller,
    parts: Parts,
    *,
    group_by: Annotated[str, Query(max_length=200, description=_GROUP_BY)] = "",
    first_day: Annotated[date | None, Query(alias="from", description="first day, in the tenant's time zone")] = None,
    last_day: Annotated[date | None, Query(alias="to", description="last day, which counts, too")] = None,
    tenant: _Named = None,
    project: _Named = None,
    user: _Named = None,
    run: UUID | None = None,
    agent: _Named = None,
    role: _Named = None,
    model: _Named = None,
    tool: _Named = None,
    kind: _Named = None,
    simulated: Annotated[
        bool | None, Query(description="only what a simulated provider executed, or only what none did")
    ] = None,
    sort: Annotated[Literal["group", "cost"], Query(description="by the dimensions, or the dearest first")] = "group",
    format_: Annotated[Literal["json", "csv"] | None, Query(alias="format", description="default: by `Accept`")] = None,
    accept: Annotated[str, Header(max_length=400)] = "",
    cursor: SpendCursor = None,
    size: PageSize = 50,
) -> Spend | Response:
    """Adds up what was spent, in any groups. What settles a hold books it here in the same transaction: this is never behind.

    A group's cost is what its committed holds came to. What is still held is not in it, nor a run's guaranteed budget: what
    the run did with it is.
    """
    require_reader(caller)
    dimensions = check_dimensions([name.strip() for name in group_by.split(",") if name.strip()])
    if first_day is not None and last_day is not None and last_day < first_day:
        raise RequestInvalid("`to`: it is before `from`")
    named = {
        "tenant": tenant, "project": project, "user": user, "run": None if run is None else str(run), "agent": agent, "role": role,
        "model": model, "tool": tool, "kind": kind, "simulated": None if simulated is None else str(simulated).lower(),
    }  # fmt: skip
    wanted = SpendFilter(first_day, last_day, {name: value for name, value in named.items() if value is not None})
    if format_ == "csv" or (format_ is None and _CSV in accept.lower()):
        if parts.exports >= EXPORTS_MAX:
            raise Unavailable(f"this server writes {EXPORTS_MAX} exports already", remedy="ask again when one is done")
        async with transaction(parts.engine, caller.tenant_id) as connection:
            await check_filter(connection, caller.tenant_id, wanted)
        return SpendExport(parts, caller.tenant_id, dimensions, wanted)
    dearest_first = sort == "cost"
    async with transaction(parts.engine, caller.tenant_id) as connection:
        found = await read_spend(
            connection,
            caller.tenant_id,
            dimensions,
            wanted,
            dearest_first=dearest_first,
            after=text_cursor(cursor),
            count=size + 1,
        )
    places = [position(spent, dearest_first=dearest_first) for spent in found.groups]
    page = page_of([SpendGroup.of(spent) for spent in found.groups], places, size)
    return Spend(
        group_by=dimensions,
        time_zone=found.time_zone,
        total=SpentAnswer.of(found.total),
        items=page.items,
        next_cursor=page.next_cursor,
    )
