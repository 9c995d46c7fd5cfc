"""Audit bundles: decisions in a file that anybody can check without this server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.authentication import Caller, require_reader
from api.context import EXPORTS_MAX, Context, Parts
from holdfast.audit.content import Wanted
from holdfast.audit.export import export, log_of
from holdfast.errors import RequestInvalid, Unavailable
from holdfast.tenancy.principals import Principal

router = APIRouter(prefix="/v1/audit", tags=["audit"])
_log = structlog.get_logger("api.audit")

WRITE_TIMEOUT_S: Final = 20.0
_BUNDLE: Final = "application/jsonl"
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AuditExport(Response):
    """Writes a bundle as it comes from the database; a client that is too slow is dropped."""

    media_type = _BUNDLE

    def __init__(self, parts: Context, caller: Principal, wanted: Wanted, origin: str, since: int | None) -> None:
        super().__init__(headers={"content-disposition": 'attachment; filename="audit.jsonl"'})
        del self.headers["content-length"]
        self._parts = parts
        self._export = (caller, wanted, origin, since)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the export."""
        self._parts.exports += 1
        try:
            await self._write(send)
        except TimeoutError:
            _log.info("audit.slow_client_dropped")  # nothing more can be written; the server closes the connection
        finally:
            self._parts.exports -= 1

    async def _write(self, send: Send) -> None:
        begun = False
        async with aclosing(export(self._parts.engine, *self._export)) as lines:
            async for line in lines:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if not begun:  # not before the database has answered: what it refuses is an error with a status
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        begun = True
                    await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get(
    "/export",
    summary="Export decisions so that anybody can check them",
    response_class=Response,
    responses={
        200: {
            "description": "a bundle, one JSON object a line; the reference describes it field by field",
            "content": {_BUNDLE: {"schema": {"type": "string"}}},
        }
    },
)
async def export_audit(
    caller: Caller,
    parts: Parts,
    *,
    run: Annotated[UUID | None, Query(description="only of this run")] = None,
    since_time: Annotated[datetime | None, Query(alias="from", description="decisions from then on")] = None,
    until_time: Annotated[datetime | None, Query(alias="to", description="decisions before then; default: now")] = None,
    since: Annotated[
        int | None, Query(ge=1, description="size of a checkpoint seen before: the bundle proves to go on from it")
    ] = None,
) -> AuditExport:
    """Exports the decisions of a run, or of the tenant in a time, with all that it takes to check them."""
    require_reader(caller)
    if run is not None and (since_time or until_time):
        raise RequestInvalid("from, to: a run is exported whole", remedy="give a run, or a time")
    if any(time is not None and time.tzinfo is None for time in (since_time, until_time)):
        raise RequestInvalid("from, to: the time has no zone", remedy="write it as 2026-03-02T10:00:00Z")
    if parts.exports >= EXPORTS_MAX:
        raise Unavailable(f"this server writes {EXPORTS_MAX} exports already", remedy="ask again when one is done")
    origin = await log_of(parts.engine, caller.tenant_id, since)
    wanted = Wanted(caller.tenant_id, run, since_time or _BEGINNING, until_time or datetime.now(UTC))
    return AuditExport(parts, caller, wanted, origin, since)
