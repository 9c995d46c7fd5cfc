"""Health of the process, readiness of what it needs, and the page at the root."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable
from datetime import timedelta
from typing import Literal

import asyncpg
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import HTMLResponse
from temporalio.service import RPCError

from api.context import Context, Parts
from api.forms import Answer
from holdfast.database.engine import DatabaseAway
from holdfast.database.version import SchemaUnfit, require_schema

router = APIRouter(tags=["health"])
_log = structlog.get_logger("api.health")

_CHECK_TIMEOUT_S = 3.0

PartState = Literal["ok", "unavailable"]


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Answer):
    """Whether requests can be served: without PostgreSQL and Temporal they cannot, without Redis events come late."""

    ready: bool
    postgresql: PartState
    temporal: PartState
    redis: PartState


async def _state_of(name: str, check: Awaitable[object]) -> PartState:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check
    except (
        DatabaseAway,
        SchemaUnfit,
        SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        RPCError,
        RedisError,
        RuntimeError,
        OSError,
    ) as error:
        _log.warning("part.unavailable", part=name, error=type(error).__name__)
        return "unavailable"
    return "ok"


async def _ask_postgresql(parts: Context) -> None:
    await require_schema(parts.engine, wait_s=0)


async def _ask_redis(parts: Context) -> None:
    await parts.redis.echo("ready")


async def _ask_temporal(parts: Context) -> None:
    healthy = await parts.temporal.service_client.check_health(timeout=timedelta(seconds=_CHECK_TIMEOUT_S))
    if not healthy:
        raise OSError("Temporal's frontend is not serving")


@router.get("/healthz", summary="Is the process alive?")
async def get_health() -> Health:
    """Answers as long as the process does."""
    return Health(status="ok")


@router.get(
    "/readyz", summary="Can requests be served?", responses={503: {"model": Readiness, "description": "not ready"}}
)
async def get_readiness(parts: Parts, response: Response) -> Readiness:
    """Asks each part; 503 if PostgreSQL or Temporal does not answer."""
    postgresql, temporal, redis = await asyncio.gather(
        _state_of("postgresql", _ask_postgresql(parts)),
        _state_of("temporal", _ask_temporal(parts)),
        _state_of("redis", _ask_redis(parts)),
    )
    ready = postgresql == "ok" and temporal == "ok"
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, postgresql=postgresql, temporal=temporal, redis=redis)


@router.get("/", include_in_schema=False)
async def root(request: Request) -> HTMLResponse:
    """Shows what there is: every operation with its summary, and where its full description is."""
    rows = "".join(
        f"<tr><td><code>{method}</code></td><td><code>{html.escape(route.path)}</code></td>"
        f"<td>{html.escape(route.summary or '')}</td></tr>"
        for route in request.app.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in sorted(route.methods or ())
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Holdfast</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem}"
        "td{padding:.15rem 1rem .15rem 0;vertical-align:top}</style>"
        "<h1>Holdfast</h1><p>No agent action runs without a hold. The API is described in "
        '<a href="/openapi.json">openapi.json</a>; call it with <code>Authorization: Bearer hf_…</code>.</p>'
        f"<table>{rows}</table></html>"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(page, headers={"content-security-policy": policy})
