"""The HTTP server: both wires, with faults, pacing and the journal."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cli.simulated_provider import completions_wire, messages_wire
from cli.simulated_provider.answer import Answer, Asked, Chunk, MalformedRequestError, compose, json_bytes, tokens_of
from cli.simulated_provider.brain import Brain, BrainReply
from cli.simulated_provider.faults import Control, Fault, FaultInvalidError, JournalEntry

SIMULATED_HEADER = ("x-holdfast-simulated", "true")
BODY_BYTES_MAX = 32 * 1024 * 1024
_FLOOD_PIECE = b"x" * 65_536
_NEVER_WORKED = range(400, 500)
_RUBBISH = b"\x00\xff\xfe event: \xc3\x28 data\n\n\x80\x81{]\n\n"
_GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff not really"

Connections = dict[tuple[str, int], asyncio.Transport]


def registering_protocol(connections: Connections) -> type[H11Protocol]:
    """Returns uvicorn's protocol, made to say which transport belongs to which client: ASGI has no way to cut one."""

    class RegisteringProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base
            super().connection_made(transport)
            if self.client is not None:
                connections[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                connections.pop(self.client, None)
            super().connection_lost(exc)

    return RegisteringProtocol


@dataclass(frozen=True, slots=True)
class Pacing:
    """How fast answers come."""

    delay_ms: int = 0
    chunk_delay_ms: int = 0


class _GoneError(Exception):
    """The client has gone, or a fault has cut it off."""


class _Conversation:
    """Sends one answer, as an ASGI application of its own: a fault may end it in ways that no response object has."""

    def __init__(
        self, provider: SimulatedProvider, wire: ModuleType, asked: Asked, fault: Fault | None, entry: JournalEntry
    ) -> None:
        self._provider = provider
        self._wire = wire
        self._asked = asked
        self._fault = fault
        self._entry = entry
        self._gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await self._answer(scope, send)
        except _GoneError:
            if self._entry.state in ("answering", "waiting"):
                self._entry.state = "disconnected"
        finally:
            watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return
        raise _GoneError

    async def _wait_for_release(self) -> None:
        gate = asyncio.Event()
        self._provider.control.gates.add(gate)
        self._entry.state = "waiting"
        waits = [asyncio.create_task(gate.wait()), asyncio.create_task(self._gone.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._provider.control.gates.discard(gate)
            for wait in waits:
                wait.cancel()
        if self._gone.is_set():
            raise _GoneError
        self._entry.state = "answering"

    def _is(self, kind: str, at: str | None = None) -> bool:
        return self._fault is not None and self._fault.kind == kind and (at is None or self._fault.at == at)

    def _is_cut(self, at: str) -> bool:
        return self._is("cut", at) or (self._fault is not None and self._fault.cut == at)

    async def _cut_off(self, scope: Scope, last_words: bytes = b"") -> None:
        """Ends the TCP connection under the response, then this answer."""
        self._entry.state = "aborted"
        transport = self._provider.connections.get(tuple(scope["client"]))
        if transport is not None:
            if last_words:
                transport.write(last_words)
                transport.close()
            else:
                transport.abort()
            await self._gone.wait()
        raise _GoneError

    async def _start(self, send: Send, status: int, content_type: str, *more: tuple[str, str]) -> None:
        self._entry.status = status
        request_id = (self._wire.REQUEST_ID_HEADER, f"req_sim_{self._entry.order:06d}")
        headers = [("content-type", content_type), SIMULATED_HEADER, request_id, *more]
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send(self, send: Send, body: bytes, *, more: bool) -> None:
        if self._gone.is_set():
            raise _GoneError
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _whole(self, send: Send, status: int, body: bytes, *more: tuple[str, str], kind: str = "json") -> None:
        await self._start(send, status, f"application/{kind}" if kind == "json" else f"text/{kind}", *more)
        await self._send(send, body, more=False)
        self._entry.state = "answered"

    async def _error(self, send: Send, status: int, message: str, *more: tuple[str, str]) -> None:
        await self._whole(send, status, json_bytes(self._wire.error_document(status, message)), *more)

    async def _answer(self, scope: Scope, send: Send) -> None:
        await self._pause(self._provider.pacing.delay_ms / 1_000)
        fault, entry = self._fault, self._entry
        if fault is not None and fault.kind == "status":
            more = () if fault.retry_after is None else (("retry-after", fault.retry_after),)
            await self._error(send, fault.status, f"simulated: ordered status {fault.status}", *more)
            return
        answer = self._compose()
        usage = self._reported(answer)
        entry.bill(answer.tokens.input_tokens, 0)
        if self._is("hang", "start"):
            await self._wait_for_release()
        if self._is("error_after_billing"):
            entry.bill(answer.tokens.input_tokens, answer.tokens.output_tokens)
        if self._is_cut("start"):
            await self._cut_off(scope)
        if fault is not None and fault.kind == "error_after_billing" and not fault.cut:
            await self._error(send, 500, "simulated: an error after the work was billed")
        elif fault is not None and fault.kind in ("rubbish", "flood") and fault.form != "json":
            await self._send_rubbish(scope, send, fault)
        elif self._asked.stream:
            await self._send_stream(scope, send, answer, usage)
        else:
            await self._send_document(scope, send, answer, usage)

    def _compose(self) -> Answer:
        reply = BrainReply() if self._is("empty") else self._provider.brain(self._asked.request)
        answer = compose(self._asked, reply, self._entry.order)
        fault = self._fault
        if fault is None or fault.kind != "usage_factor":
            return answer
        tokens = answer.tokens
        if fault.of == "max_tokens":
            tokens = replace(tokens, output_tokens=fault.factor * self._asked.max_tokens)
        else:
            tokens = replace(
                tokens,
                input_tokens=fault.factor * tokens.input_tokens,
                output_tokens=fault.factor * tokens.output_tokens,
            )
        return replace(answer, tokens=tokens)

    def _reported(self, answer: Answer) -> dict[str, object] | None:
        if self._is("no_usage"):
            return None
        usage: dict[str, object] = self._wire.usage_document(answer.tokens.input_tokens, answer.tokens.output_tokens)
        if self._fault is not None and self._fault.kind == "usage":
            usage.update(self._fault.usage)
        return usage

    async def _send_rubbish(self, scope: Scope, send: Send, fault: Fault) -> None:
        if fault.kind == "flood":
            await self._start(send, 200, "text/event-stream")
            for _ in range(0, fault.size_bytes, len(_FLOOD_PIECE)):
                await asyncio.sleep(0)  # sending to a client that has gone waits for nothing, so it would never be seen
                await self._send(send, _FLOOD_PIECE, more=True)
            await self._send(send, b"", more=False)
        elif fault.form == "not_http":
            await self._cut_off(scope, b"220 simulated.example ESMTP ready\r\n\r\n")
        elif fault.form == "html":
            await self._whole(send, 200, b"<html>simulated: a page, not an answer</html>", kind="html")
        elif fault.form == "gzip":
            await self._whole(send, 200, _GZIP, ("content-encoding", "gzip"), kind="event-stream")
        else:
            await self._whole(send, 200, _RUBBISH, kind="event-stream")
        self._entry.state = "answered"

    async def _middle(self, scope: Scope, send: Send) -> None:
        """What faults do when half of the output has been sent."""
        if self._is("gate") or self._is("hang", "middle"):
            await self._wait_for_release()
        if self._is_cut("middle"):
            await self._cut_off(scope)
        if self._is("rubbish"):
            await self._send(send, b'event: content_block_delta\ndata: {"type": nonsense\n\n', more=True)
        if self._is("stream_error"):
            await self._send(send, self._wire.stream_error("simulated: overloaded").data, more=False)
            self._entry.state = "answered"
            raise _GoneError

    async def _send_stream(self, scope: Scope, send: Send, answer: Answer, usage: Mapping[str, object] | None) -> None:
        chunks: list[Chunk] = list(self._wire.chunks(answer, usage, include_usage=self._asked.include_usage))
        await self._start(send, 200, "text/event-stream", ("cache-control", "no-cache"))
        slow_ms = self._fault.ms if self._fault is not None and self._fault.kind == "slow" else 0
        output = [number for number, chunk in enumerate(chunks) if chunk.output_bytes]
        middle = output[(len(output) + 1) // 2] if len(output) > 1 else len(chunks) // 2
        end = next(number for number, chunk in enumerate(chunks) if chunk.closing)
        sent_bytes = 0
        for number, chunk in enumerate(chunks):
            if number == middle:
                await self._middle(scope, send)
            if number == end and (self._is_cut("end") or self._is("hang", "end")):
                if self._is("hang", "end"):
                    await self._wait_for_release()
                else:
                    await self._cut_off(scope)
            await self._pause((slow_ms + self._provider.pacing.chunk_delay_ms) / 1_000)
            await self._send(send, chunk.data, more=True)
            sent_bytes += chunk.output_bytes
            self._entry.bill(answer.tokens.input_tokens, min(tokens_of(sent_bytes), answer.tokens.output_tokens))
        self._complete(answer)
        await self._send(send, b"", more=False)

    async def _send_document(
        self, scope: Scope, send: Send, answer: Answer, usage: Mapping[str, object] | None
    ) -> None:
        body = json_bytes(self._wire.document(answer, usage))
        await self._start(send, 200, "application/json")
        await self._send(send, body[: len(body) // 2], more=True)
        await self._middle(scope, send)
        if self._is_cut("end"):
            await self._cut_off(scope)
        await self._send(send, body[len(body) // 2 :], more=True)
        self._complete(answer)
        await self._send(send, b"", more=False)

    def _complete(self, answer: Answer) -> None:
        """Before the last byte leaves, so that whoever has the whole answer finds it in the journal."""
        self._entry.bill(answer.tokens.input_tokens, answer.tokens.output_tokens)
        self._entry.state = "answered"
        self._entry.completed = True


class SimulatedProvider:
    """The application: its brain, its pacing, and what tests control."""

    def __init__(self, brain: Brain, pacing: Pacing) -> None:
        """Builds the application.

        Args:
            brain: What answers.
            pacing: How fast answers come.
        """
        self.brain = brain
        self.pacing = pacing
        self.control = Control()
        self.connections: Connections = {}
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/chat/completions", self._completions, methods=["POST"]),
                Route("/control/faults", self._order_faults, methods=["POST"]),
                Route("/control/release", self._release, methods=["POST"]),
                Route("/control/reset", self._reset, methods=["POST"]),
                Route("/control/calls", self._calls, methods=["GET"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        return await self._converse(request, messages_wire, "anthropic")

    async def _completions(self, request: Request) -> Response:
        return await self._converse(request, completions_wire, "openai")

    async def _converse(self, request: Request, wire: ModuleType, name: str) -> Response:
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            return _labelled(wire.error_document(401, "simulated: no API key came with the request"), 401)
        if int(request.headers.get("content-length", "0")) > BODY_BYTES_MAX:
            return _labelled(wire.error_document(413, "simulated: the request is too large"), 413)
        try:
            asked: Asked = wire.read(await _json_object(request))
        except (MalformedRequestError, KeyError, TypeError) as error:
            return _labelled(wire.error_document(400, f"simulated: {error}"), 400)
        fault = self.control.next_fault(asked.request.first_user_text)
        self.control.received += 1
        entry = JournalEntry(
            order=self.control.received,
            wire=name,
            model=asked.request.model,
            stream=asked.stream,
            max_tokens=asked.max_tokens,
            idempotency_key=request.headers.get("idempotency-key"),
            key_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:8],
            header_names=sorted(request.headers.keys()),
            fault=None if fault is None else fault.kind,
        )
        self.control.journal.append(entry)
        # Starlette calls whatever an endpoint returns as an ASGI application; its annotation says Response.
        conversation: Any = _Conversation(self, wire, asked, fault, entry)
        return conversation  # type: ignore[no-any-return]  # see above

    async def _order_faults(self, request: Request) -> Response:
        try:
            waiting = self.control.order(json.loads(await request.body()))
        except (FaultInvalidError, ValueError) as error:
            return _labelled({"error": str(error)}, 422)
        return _labelled({"waiting": waiting})

    async def _release(self, _request: Request) -> Response:
        return _labelled({"released": self.control.release()})

    async def _reset(self, _request: Request) -> Response:
        self.control.reset()
        return _labelled({"reset": True})

    async def _calls(self, _request: Request) -> Response:
        return _labelled({"calls": self.control.calls()})


def _labelled(body: Mapping[str, object], status: int = 200) -> JSONResponse:
    return JSONResponse(body, status, headers=dict([SIMULATED_HEADER]))


async def _json_object(request: Request) -> dict[str, Any]:
    """Any: the wires check each member where they read it."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise MalformedRequestError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise MalformedRequestError("the body is not a JSON object")
    return body
