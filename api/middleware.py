"""Around every request: an id, one log line, bounds on query and body, and an answer whatever breaks."""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import for_holdfast_error, for_unexpected
from api.strict_json import check_json
from holdfast.errors import HoldfastError, RequestInvalid, RequestTooLarge
from holdfast.ids import new_id

_log = structlog.get_logger("api")

BODY_BYTES_MAX: Final = 1_048_576
CODEC_BODY_BYTES_MAX: Final = 16_777_216
"""Temporal's UI sends a page of a history at once."""
_PAGES: Final = "/approve/"
"""Pages for people send forms."""
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class RequestMiddleware:
    """Gives each request an id, logs it without its content, and answers what the routes did not expect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                headers += [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 (whatever breaks is logged here and answered without details)
            _log.error("request.failed", exc_info=error)
            if status == 0:
                await for_unexpected(request_id, error)(scope, receive, send_with_id)
        finally:
            _log.info(
                "request",
                method=scope["method"],
                path=_route_of(scope),
                status=status,
                duration_ms=round((time.monotonic() - began) * 1000),
            )


def _route_of(scope: Scope) -> str:
    """Returns the route's template, not the path: a path is what the caller wrote."""
    return getattr(scope.get("route"), "path", "-")


class QueryMiddleware:
    """Refuses a query that holds a NUL: no name and no id has one, and no database takes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and b"%00" in scope["query_string"]:
            request = Request(scope)
            name = next(name for name, value in request.query_params.multi_items() if "\x00" in name + value)
            shown = name[:80].replace("\x00", "%00")
            error = RequestInvalid(f"`{shown}`: the query holds a NUL character", remedy="leave %00 out")
            await for_holdfast_error(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyMiddleware:
    """Reads a body whole, within bounds, and refuses JSON that has two meanings or none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            body = await self._read(request, receive)
            if body:
                self._check(request, body)
        except HoldfastError as error:
            await for_holdfast_error(request, error)(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    @staticmethod
    def _check(request: Request, body: bytes) -> None:
        is_page = request.url.path.startswith(_PAGES)
        expected = "application/x-www-form-urlencoded" if is_page else "application/json"
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != expected:
            raise RequestInvalid(f"the body is not {expected}", remedy="say so in Content-Type")
        if not is_page:
            check_json(body)

    @staticmethod
    async def _read(request: Request, receive: Receive) -> bytes:
        bound = CODEC_BODY_BYTES_MAX if request.url.path.startswith("/codec/") else BODY_BYTES_MAX
        too_large = RequestTooLarge(f"the body is over {bound} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > bound:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestInvalid("the connection was closed in the middle of the body")
            body += message.get("body", b"")
            if len(body) > bound:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)
