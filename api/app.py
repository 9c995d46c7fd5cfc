"""The application: routes, middleware, errors, and what lives as long as the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from temporalio.service import RPCError

from api import (
    agents,
    approval_links,
    approval_page,
    approvals,
    artefacts,
    audit,
    caps,
    codec,
    codes,
    decisions,
    estimate,
    events,
    health,
    histories,
    holds,
    keys,
    log,
    metrics,
    policies,
    rehearsals,
    releases,
    retention,
    runs,
    sandbox_tiers,
    signers,
    spend,
    stops,
    tenants,
    tools,
    vault,
    webhooks,
)
from api.context import Context
from api.middleware import BodyMiddleware, QueryMiddleware, RequestMiddleware
from api.problems import RESPONSES, Problem, for_holdfast_error, for_http_exception, for_validation_error
from holdfast.errors import HoldfastError
from holdfast.runs.start import ensure_search_attributes
from holdfast.settings import ApiSettings

_log = structlog.get_logger("api")

_DESCRIPTION = """
No agent action runs without a hold. Every error is a problem (RFC 9457) with a stable `code`, a sentence and a `request_id`;
its `type` leads to what the code means.

Bodies are JSON of at most 1 MiB, nested at most 64 deep, without unknown or doubled keys. Lists are paged by `cursor`.
Another tenant's things look as if they were not there. `503` comes with `Retry-After`: nothing was decided or executed.
"""

_NOUNS = (
    runs,
    artefacts,
    histories,
    estimate,
    events,
    approvals,
    approval_links,
    signers,
    releases,
    agents,
    rehearsals,
    policies,
    tools,
    caps,
    holds,
    spend,
    stops,
    decisions,
    log,
    metrics,
    audit,
    retention,
    keys,
    tenants,
    sandbox_tiers,
    vault,
    webhooks,
)
_FLUSH_INTERVAL_S = 1.0
_REGISTER_INTERVAL_S = 5.0


async def _flush_failures(parts: Context) -> None:
    while True:
        await asyncio.sleep(_FLUSH_INTERVAL_S)
        await parts.failures.flush()


async def _register_search_attributes(parts: Context) -> None:
    """Sees to it that runs can be started, as soon as Temporal is there; the workers do the same."""
    while True:
        try:
            await ensure_search_attributes(parts.temporal)
        except (RPCError, RuntimeError, OSError) as error:
            _log.info("temporal.not_yet", error=type(error).__name__)
            await asyncio.sleep(_REGISTER_INTERVAL_S)
        else:
            return


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts = await Context.open(app.state.settings)
    app.state.context = parts
    tasks = [asyncio.create_task(_flush_failures(parts)), asyncio.create_task(_register_search_attributes(parts))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                _log.error("background.broke_off", error=type(ended).__name__, reason=str(ended))
        await parts.close()


def create_app(settings: ApiSettings) -> FastAPI:
    """Builds the application.

    Args:
        settings: The process's settings.
    """
    app = FastAPI(
        title="Holdfast",
        version="1",
        description=_DESCRIPTION,
        lifespan=_lifespan,
        # the interactive pages would load their code from elsewhere: nothing here calls home
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    app.add_exception_handler(HoldfastError, for_holdfast_error)
    app.add_exception_handler(RequestValidationError, for_validation_error)
    app.add_exception_handler(HTTPException, for_http_exception)
    app.state.settings = settings
    for noun in _NOUNS:
        app.include_router(noun.router, responses=RESPONSES)
    app.include_router(codec.router, responses=RESPONSES)
    app.include_router(codes.router, responses={status: RESPONSES[status] for status in (404, 422)})
    app.include_router(health.router)
    app.include_router(approval_page.router)
    app.add_middleware(BodyMiddleware)
    app.add_middleware(QueryMiddleware)
    app.add_middleware(RequestMiddleware)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name.rstrip("_")


def _openapi(app: FastAPI) -> dict[str, Any]:  # FastAPI's type
    """Returns the description of the API, with the problem schema that all errors share."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = schema["components"]["schemas"]
        schemas |= problem.pop("$defs", {})
        schemas["Problem"] = problem
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
