"""The vault: credentials go through to the broker, which alone can open it. Nothing is ever read back."""

from __future__ import annotations

from typing import Annotated

import httpx
import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import Field, JsonValue, RootModel

from api.authentication import Caller
from api.context import Context, Parts
from api.forms import Answer
from holdfast.errors import HoldfastError, NotFound, NotPermitted, RequestInvalid, Unavailable
from holdfast.tenancy.principals import ADMIN, OWNER

router = APIRouter(prefix="/v1/vault", tags=["vault"])

EntryName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,126}$", description="such as `provider.anthropic`")]


class Credential(RootModel[dict[str, JsonValue]]):
    """A credential: what it consists of depends on what it is for."""

    root: dict[str, JsonValue] = Field(min_length=1, max_length=50)


class VaultEntry(Answer):
    """An entry, by name only."""

    name: str
    updated_at: str


class VaultEntries(Answer):
    """All entries of the tenant."""

    entries: list[VaultEntry]


async def _ask_broker(parts: Context, request: Request, method: str, path: str, body: bytes = b"") -> httpx.Response:
    """Passes a request on with the caller's own key: the broker believes keys, not the API.

    Raises:
        Unavailable: The broker does not answer.
        HoldfastError: The broker refuses.
    """
    headers = {"authorization": request.headers["authorization"], "content-type": "application/json"}
    try:
        answer = await parts.broker.request(method, path, content=body, headers=headers)
    except httpx.HTTPError:
        raise Unavailable("the broker, which keeps the vault, does not answer", remedy="try again") from None
    if answer.is_success:
        return answer
    known: dict[int, type[HoldfastError]] = {403: NotPermitted, 404: NotFound, 413: RequestInvalid, 422: RequestInvalid}
    kind = known.get(answer.status_code)
    if kind is None:
        raise Unavailable("the broker cannot serve the vault now", remedy="try again")
    try:
        detail = str(orjson.loads(answer.content)["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        detail = "the broker refuses this"
    raise kind(detail)


@router.put("/{name}", status_code=204, summary="Store a credential")
async def put_credential(name: EntryName, body: Credential, request: Request, caller: Caller, parts: Parts) -> Response:
    """Stores a credential, sealed, in place of the one of that name."""
    caller.require(OWNER, ADMIN)
    await _ask_broker(parts, request, "PUT", f"/vault/{name}", orjson.dumps(body.root))
    return Response(status_code=204)


@router.get("", summary="List credentials by name")
async def list_credentials(request: Request, caller: Caller, parts: Parts) -> VaultEntries:
    """Lists names and times of change; what is in the vault is never shown."""
    caller.require(OWNER, ADMIN)
    answer = await _ask_broker(parts, request, "GET", "/vault")
    return VaultEntries.model_validate_json(answer.content)


@router.delete("/{name}", status_code=204, summary="Delete a credential")
async def delete_credential(name: EntryName, request: Request, caller: Caller, parts: Parts) -> Response:
    """Deletes a credential."""
    caller.require(OWNER, ADMIN)
    await _ask_broker(parts, request, "DELETE", f"/vault/{name}")
    return Response(status_code=204)
