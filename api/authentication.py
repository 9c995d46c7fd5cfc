"""From the Authorization header to the principal. Whatever is refused is recorded."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.context import Parts
from holdfast.errors import NotAuthenticated
from holdfast.tenancy.keys import KeyRefused, authenticate
from holdfast.tenancy.principals import AGENT, READERS, Principal

bearer = HTTPBearer(
    auto_error=False, scheme_name="api_key", bearerFormat="hf_…", description="an API key: `Bearer hf_…`"
)


def _bind_run(request: Request) -> None:
    """Lets every line about this request name the run that it asks for; what is no id is nothing to log."""
    with suppress(ValueError):
        structlog.contextvars.bind_contextvars(run_id=str(UUID(request.path_params.get("run_id", ""))))


async def principal_of(
    request: Request, parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Principal:
    """Returns who calls.

    Raises:
        NotAuthenticated: No key came.
        KeyRefused: The key is not in force; that is recorded.
    """
    if credentials is None:
        raise NotAuthenticated("no API key came with the request", remedy="send `Authorization: Bearer hf_…`")
    try:
        principal = await authenticate(parts.engine, credentials.credentials)
    except KeyRefused as refused:
        await parts.failures.note(refused)
        raise
    structlog.contextvars.bind_contextvars(
        tenant_id=str(principal.tenant_id), tenant=principal.tenant, key_id=str(principal.key_id)
    )
    _bind_run(request)
    return principal


Caller = Annotated[Principal, Depends(principal_of)]
"""Who is calling, as a route asks for it."""


def require_reader(caller: Principal) -> None:
    """Makes sure that the key may see its tenant.

    Raises:
        NotPermitted: It has no role that reads.
    """
    caller.require(*sorted(READERS))


def own_only(caller: Principal) -> Principal | None:
    """Returns the principal if it sees only what its own user started, else None.

    Raises:
        NotPermitted: It may see no runs at all.
    """
    caller.require(*sorted(READERS), AGENT)
    return None if caller.sees_all else caller
