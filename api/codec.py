"""The codec endpoint: lets Temporal's UI show what travels encrypted, to operators only.

On one's own machine, and only when it is set so, the UI needs no key: whoever reaches loopback there can read the key's file too.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import Field
from temporalio.api.common.v1 import Payload

from api.authentication import bearer, principal_of
from api.context import Context, Parts
from api.forms import Answer, Form
from holdfast.errors import NotAuthenticated, NotPermitted, RequestInvalid
from holdfast.tenancy.principals import OPERATOR

_ALLOWED_HEADERS = "authorization, content-type, x-namespace"


class WirePayload(Form):
    """A payload as Temporal's tools send it: bytes in base64."""

    metadata: dict[str, str] = Field(default={}, max_length=50)
    data: str = ""

    def decoded(self) -> Payload:
        """Returns the payload.

        Raises:
            RequestInvalid: Something is not base64.
        """
        try:
            metadata = {name: base64.b64decode(value, validate=True) for name, value in self.metadata.items()}
            return Payload(metadata=metadata, data=base64.b64decode(self.data, validate=True))
        except (binascii.Error, ValueError):
            raise RequestInvalid("`payloads`: metadata and data must be base64") from None


class Payloads(Form):
    """Payloads to be encoded or decoded."""

    payloads: list[WirePayload] = Field(max_length=10_000)


class WirePayloads(Answer):
    """The same payloads, encoded or decoded."""

    payloads: list[WirePayload]

    @classmethod
    def of(cls, payloads: Sequence[Payload]) -> WirePayloads:
        """Builds the answer."""
        return cls(
            payloads=[
                WirePayload(
                    metadata={name: base64.b64encode(value).decode() for name, value in payload.metadata.items()},
                    data=base64.b64encode(payload.data).decode(),
                )
                for payload in payloads
            ]
        )


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _origin_allowed(parts: Context, request: Request) -> bool:
    """Says whether the request is from no page at all, or from Temporal's UI; `localhost` counts as loopback."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    wanted, asked = urlsplit(parts.settings.temporal_ui_url), urlsplit(origin)
    if not wanted.hostname:
        return False
    same_host = asked.hostname == wanted.hostname or {asked.hostname, wanted.hostname} == {"127.0.0.1", "localhost"}
    return same_host and (asked.scheme, asked.port) == (wanted.scheme, wanted.port)


async def _check_access(
    request: Request,
    parts: Parts,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> None:
    if not _origin_allowed(parts, request):
        raise NotPermitted("only Temporal's UI may call this from a page")
    if credentials is not None:
        (await principal_of(request, parts, credentials)).require(OPERATOR)
    elif not (parts.settings.codec_endpoint_open and _is_loopback(request)):
        raise NotAuthenticated("this needs the key of an operator", remedy="send `Authorization: Bearer hf_…`")


def _allow_origin(request: Request, response: Response) -> None:
    origin = request.headers.get("origin")
    if origin is not None:
        response.headers["access-control-allow-origin"] = origin
        response.headers["vary"] = "origin"


router = APIRouter(prefix="/codec", tags=["codec"])


@router.options("/{operation}", include_in_schema=False)
async def preflight(operation: str, request: Request, parts: Parts) -> Response:
    """Tells a browser that Temporal's UI, and no other page, may call."""
    if operation not in ("decode", "encode") or not _origin_allowed(parts, request):
        raise NotPermitted("only Temporal's UI may call this from a page")
    response = Response(status_code=204)
    _allow_origin(request, response)
    response.headers["access-control-allow-methods"] = "POST"
    response.headers["access-control-allow-headers"] = _ALLOWED_HEADERS
    return response


@router.post("/decode", summary="Decrypt payloads for Temporal's UI", dependencies=[Depends(_check_access)])
async def decode_payloads(body: Payloads, request: Request, response: Response, parts: Parts) -> WirePayloads:
    """Decrypts; what is not encrypted comes back as it is, what was altered is refused."""
    _allow_origin(request, response)
    return WirePayloads.of(await parts.codec.decode([payload.decoded() for payload in body.payloads]))


@router.post("/encode", summary="Encrypt payloads for Temporal's UI", dependencies=[Depends(_check_access)])
async def encode_payloads(body: Payloads, request: Request, response: Response, parts: Parts) -> WirePayloads:
    """Encrypts."""
    _allow_origin(request, response)
    return WirePayloads.of(await parts.codec.encode([payload.decoded() for payload in body.payloads]))
