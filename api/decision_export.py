"""Decisions as JSON Lines, CSV or OCSF, written as they come from the database."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final
from uuid import UUID

import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.context import EXPORTS_MAX, Context
from holdfast.decisions.query import DecisionFilter, walk_decisions
from holdfast.decisions.writing import Format, heading, written
from holdfast.errors import Unavailable

_log = structlog.get_logger("api.decisions")

WRITE_TIMEOUT_S: Final = 20.0
MEDIA_TYPES: Final[dict[Format, str]] = {
    "jsonl": "application/jsonl",
    "csv": "text/csv",
    "ocsf": "application/x-ndjson",
}
_ENDINGS: Final[dict[Format, str]] = {"jsonl": "jsonl", "csv": "csv", "ocsf": "ocsf.jsonl"}


def format_of(named: str | None, accept: str) -> Format | None:
    """Returns the format that was asked for, by its name or by `Accept`; None for a page of JSON."""
    for format_, media_type in MEDIA_TYPES.items():
        if named == format_ or (named is None and format_ != "ocsf" and media_type in accept.lower()):
            return format_
    return None


class DecisionExport(Response):
    """Writes decisions, the oldest first; a client that is too slow is dropped."""

    def __init__(self, parts: Context, tenant_id: UUID, wanted: DecisionFilter, format_: Format) -> None:
        if parts.exports >= EXPORTS_MAX:
            raise Unavailable(f"this server writes {EXPORTS_MAX} exports already", remedy="ask again when one is done")
        named = f'attachment; filename="decisions.{_ENDINGS[format_]}"'
        super().__init__(headers={"content-disposition": named}, media_type=MEDIA_TYPES[format_])
        del self.headers["content-length"]
        self._parts = parts
        self._tenant_id = tenant_id
        self._wanted = wanted
        self._format: Format = format_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the export."""
        self._parts.exports += 1
        try:
            await self._write(send)
        except TimeoutError:
            _log.info("decisions.slow_client_dropped")  # nothing more can be written; the server closes the connection
        finally:
            self._parts.exports -= 1

    async def _write(self, send: Send) -> None:
        begun = False
        async with aclosing(walk_decisions(self._parts.engine, self._tenant_id, self._wanted)) as batches:
            async for found in batches:
                body = written(found, self._format)
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if not begun:  # not before the database has answered: what it refuses is an error with a status
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        body = heading(self._format) + body
                        begun = True
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
