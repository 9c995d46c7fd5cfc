"""The payments and accounts service: HTTP with an API key, idempotent by Idempotency-Key, and faults on demand."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from demo.refund_desk.world.faults import Fault, Faults, Kind, Target
from demo.refund_desk.world.payments_store import PaymentsStore, StoredAnswer
from holdfast.connections import KEEP_ALIVE_S

LOOPBACK = "127.0.0.1"

_Endpoint = Callable[[Request], Awaitable[Response]]


class _RefundBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    order_id: Annotated[str, Field(min_length=1, max_length=64)]
    amount_usd_cents: Annotated[int, Field(gt=0)]
    reason: Annotated[str, Field(max_length=1000)]


class _FaultBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: Target = "refunds"
    kind: Kind | Literal["none"]
    times: Annotated[int, Field(ge=1, le=100)] = 1
    delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 0


class PaymentsServer:
    """Serves on loopback, in the running event loop.

    Args:
        store: What it remembers.
        faults: What goes wrong.
        api_key: The bearer token that every request must bring.
        port: Port, 0 for a free one.
    """

    def __init__(self, store: PaymentsStore, faults: Faults, api_key: str, port: int = 0) -> None:
        self._store = store
        self._faults = faults
        self._api_key = api_key
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = port

    @property
    def base_url(self) -> str:
        """Where it is reached."""
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Listens; returns when it is ready."""
        listener = socket.create_server((LOOPBACK, self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            http=_tracked_protocol(self._transports),
            ws="none",
            lifespan="off",
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Releases what is held and stops."""
        self._faults.clear()
        self._faults.release()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/refunds", self._authenticated(self._refund), methods=["POST"]),
                Route("/refunds", self._authenticated(self._refunds), methods=["GET"]),
                Route("/accounts", self._authenticated(self._accounts), methods=["GET"]),
                Route("/accounts/{customer}", self._authenticated(self._delete_account), methods=["DELETE"]),
                Route("/control/faults", self._authenticated(self._add_faults), methods=["POST"]),
                Route("/control/release", self._authenticated(self._release), methods=["POST"]),
                Route("/control/state", self._authenticated(self._state), methods=["GET"]),
            ]
        )

    def _authenticated(self, endpoint: _Endpoint) -> _Endpoint:
        async def guarded(request: Request) -> Response:
            expected = f"Bearer {self._api_key}".encode()
            if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected):
                return _problem(401, "a valid API key is required")
            return await endpoint(request)

        return guarded

    async def _refund(self, request: Request) -> Response:
        try:
            body = _RefundBody.model_validate_json(await request.body())
        except ValidationError:
            return _problem(422, "order_id, amount_usd_cents and reason are required")
        return await self._effect(
            request,
            "refunds",
            lambda key: self._store.refund(key, body.order_id, body.amount_usd_cents, body.reason),
        )

    async def _delete_account(self, request: Request) -> Response:
        customer = request.path_params["customer"]
        return await self._effect(request, "accounts", lambda key: self._store.delete_account(key, customer))

    async def _effect(self, request: Request, target: Target, effect: Callable[[str], StoredAnswer]) -> Response:
        key = request.headers.get("idempotency-key")
        if not key:
            return _problem(400, "an Idempotency-Key is required")
        fault = self._faults.take(target)
        if fault is not None and fault.kind == "error_before":
            return _problem(500, "something broke")
        if fault is not None and fault.kind == "rate_limited":
            return JSONResponse({"detail": "too many requests"}, 429, headers={"Retry-After": "1"})
        answer = effect(key)
        if await self._faults.after_effect(fault):
            self._cut(request)
        return JSONResponse(answer.body, answer.status)

    def _cut(self, request: Request) -> None:
        """Drops the connection without a byte of an answer."""
        if request.client is not None:
            self._transports[request.client.host, request.client.port].abort()

    async def _refunds(self, _: Request) -> Response:
        return JSONResponse({"refunds": self._store.refunds()})

    async def _accounts(self, _: Request) -> Response:
        return JSONResponse({"accounts": self._store.accounts()})

    async def _add_faults(self, request: Request) -> Response:
        try:
            body = _FaultBody.model_validate_json(await request.body())
        except ValidationError as error:
            return _problem(422, str(error))
        if body.kind == "none":
            self._faults.clear()
        else:
            self._faults.add(body.target, Fault(body.kind, body.delay_ms), body.times)
        return JSONResponse({"ok": True})

    async def _release(self, _: Request) -> Response:
        return JSONResponse({"released": self._faults.release()})

    async def _state(self, _: Request) -> Response:
        return JSONResponse({"held": self._faults.held})


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


def _tracked_protocol(transports: dict[tuple[str, int], asyncio.Transport]) -> type[H11Protocol]:
    """Makes a protocol that keeps its connections findable by the client's address, so that one can be cut."""

    class Tracked(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base does
            super().connection_made(transport)
            if self.client is not None:
                transports[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                transports.pop(self.client, None)
            super().connection_lost(exc)

    return Tracked
