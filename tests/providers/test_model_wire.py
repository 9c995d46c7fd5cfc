"""What happens below HTTP: servers that are not there, close, hang in the handshake, drip or send a client elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from activities.guarded_transport import ERROR_BODY_BYTES_MAX, LINE_BYTES_MAX
from activities.model_call import call_model
from holdfast.errors import Unavailable
from holdfast.providers.model import ModelOutcome, Wire

from .simulated import API_KEY, DEADLINES_MS, WIRES, Outward, ignore, request_for

pytestmark = pytest.mark.parametrize("wire", WIRES)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Runs a TCP server and records the first bytes of each connection."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read(65_536))
            await handler(reader, writer)
        except ConnectionError:
            pass  # the client may go whenever it likes
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heard
        listening.close()


async def attempt(
    wire: Wire, base_url: str, *, outward: Outward | None = None, deadline_ms: int = 60_000, max_tokens: int = 100
) -> ModelOutcome:
    credential = {"api_key": API_KEY, "base_url": base_url, "simulated": False}
    asked = outward or Outward()
    return await call_model(request_for(wire, max_tokens=max_tokens), credential, "k", asked, ignore, deadline_ms)


def response(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "content-type: text/event-stream", *headers, "connection: close", "", ""]
    return "\r\n".join(head).encode() + body


async def test_a_refused_connection_provably_costs_nothing(wire: Wire) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connecting is refused
        outcome = await attempt(wire, f"http://127.0.0.1:{free.getsockname()[1]}")
    assert (outcome.error_code, outcome.retryable, outcome.cost) == ("provider.unreachable", True, "nothing")
    assert not outcome.simulated


async def test_a_name_that_does_not_resolve_provably_costs_nothing(wire: Wire) -> None:
    outcome = await attempt(wire, "http://no-such-host.invalid")
    assert (outcome.error_code, outcome.cost) == ("provider.unreachable", "nothing")


async def test_a_handshake_that_hangs_provably_costs_nothing(wire: Wire) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(say_nothing) as (port, heard):
        for deadline_ms in DEADLINES_MS:
            outward = Outward()
            outcome = await attempt(wire, f"https://127.0.0.1:{port}", outward=outward, deadline_ms=deadline_ms)
            if heard:
                break
    assert (outcome.error_code, outcome.cost) == ("provider.unreachable", "nothing")
    assert outward.asked == ["begin"]


async def test_a_server_that_speaks_no_tls_provably_costs_nothing(wire: Wire) -> None:
    async def speak_plainly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with server(speak_plainly) as (port, _heard):
        outcome = await attempt(wire, f"https://127.0.0.1:{port}")
    assert (outcome.error_code, outcome.cost) == ("provider.unreachable", "nothing")


async def test_a_connection_closed_after_the_request_is_unknown(wire: Wire) -> None:
    async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with server(close) as (port, _heard):
        outcome = await attempt(wire, f"http://127.0.0.1:{port}")
    assert (outcome.error_code, outcome.retryable, outcome.cost) == ("provider.cut", True, "unknown")


async def test_an_empty_success_is_unknown(wire: Wire) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response("200 OK", b""))
        await writer.drain()

    async with server(answer) as (port, _heard):
        outcome = await attempt(wire, f"http://127.0.0.1:{port}")
    assert (outcome.error_code, outcome.cost) == ("provider.cut", "unknown")


async def test_a_redirect_is_not_followed(wire: Wire) -> None:
    async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with server(never) as (elsewhere, elsewhere_heard):

        async def redirect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(response("307 Temporary Redirect", b"", f"location: http://127.0.0.1:{elsewhere}/"))
            await writer.drain()

        async with server(redirect) as (port, heard):
            outcome = await attempt(wire, f"http://127.0.0.1:{port}")
    assert (outcome.error_code, outcome.retryable, outcome.cost) == ("provider.failed", False, "unknown")
    assert (len(heard), elsewhere_heard) == (1, [])


async def test_a_refusal_counts_even_if_its_body_never_ends(wire: Wire) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response("429 Too Many Requests", b'{"error"', "retry-after: 2"))
        await writer.drain()
        await reader.read()

    async with server(drip) as (port, _heard):
        for deadline_ms in DEADLINES_MS:
            outcome = await attempt(wire, f"http://127.0.0.1:{port}", deadline_ms=deadline_ms)
            if outcome.error_code not in ("provider.unreachable", "provider.timeout"):
                break
    assert (outcome.error_code, outcome.cost, outcome.retry_after_ms) == ("provider.rate_limited", "nothing", 2_000)


async def test_a_refusal_with_an_endless_body_is_read_only_so_far(wire: Wire) -> None:
    written = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(response("400 Bad Request", b""))
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with server(pour) as (port, _heard):
        outcome = await attempt(wire, f"http://127.0.0.1:{port}")
    assert (outcome.error_code, outcome.cost) == ("provider.refused", "nothing")
    assert outcome.error_message is not None
    assert len(outcome.error_message) <= 500
    assert written < 200 * ERROR_BODY_BYTES_MAX


async def test_an_endless_stream_of_events_is_read_only_so_far(wire: Wire) -> None:
    line = b"event: ping\ndata: " + b"x" * 60_000 + b"\n\n" if wire == "anthropic" else b": " + b"x" * 60_000 + b"\n\n"

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response("200 OK", b""))
        while True:
            writer.write(line)
            await writer.drain()

    assert len(line) < LINE_BYTES_MAX
    async with server(pour) as (port, _heard):
        outcome = await attempt(wire, f"http://127.0.0.1:{port}", max_tokens=1)
    assert (outcome.error_code, outcome.cost) == ("provider.rubbish", "unknown")
    assert outcome.error_message is not None
    assert "the response is over" in outcome.error_message


async def test_what_the_lease_raises_is_passed_on_whatever_it_is(wire: Wire) -> None:
    class Down(Outward):
        async def begin(self) -> None:
            raise Unavailable("the database does not answer")

    async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with server(never) as (port, heard):
        with pytest.raises(Unavailable):
            await attempt(wire, f"http://127.0.0.1:{port}", outward=Down())
    assert heard == []


async def test_a_deadline_while_the_lease_is_asked_provably_costs_nothing(wire: Wire) -> None:
    class Slow(Outward):
        async def begin(self) -> None:
            await asyncio.Event().wait()

    outcome = await attempt(wire, "http://127.0.0.1:9", outward=Slow(), deadline_ms=100)
    assert (outcome.error_code, outcome.cost) == ("provider.unreachable", "nothing")
