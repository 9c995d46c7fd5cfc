"""The SDK's events from a real run, through a connection that keeps breaking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sdk import Event, Holdfast

from .desk import Desk, refund

_CUT_AFTER_BYTES = 3_000


@asynccontextmanager
async def breaking_proxy(port: int) -> AsyncIterator[tuple[str, list[int]]]:
    """Passes connections on to a port, and cuts each after some bytes of its answer, wherever that is."""
    cuts: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)

        async def up() -> None:
            while data := await reader.read(65_536):
                downstream.write(data)
                await downstream.drain()

        rising = asyncio.create_task(up())
        left = _CUT_AFTER_BYTES
        while left > 0 and (data := await upstream.read(left)):
            writer.write(data)
            await writer.drain()
            left -= len(data)
        if left <= 0:
            cuts.append(1)
        writer.transport.abort()
        downstream.transport.abort()
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", cuts


async def test_no_event_is_lost_or_doubled_by_connections_that_break(desk: Desk) -> None:
    run_id = await desk.start({"say": "words " * 200, **refund("A-9")}, {"say": "words " * 200})
    approval = await desk.asked(run_id)
    key = desk.key_file("owner").read_text().strip()
    async with breaking_proxy(desk.stack.ports.api) as (url, cuts):
        with Holdfast(url, key) as client:
            following = asyncio.create_task(asyncio.to_thread(lambda: list(client.events(run_id))))
            await asyncio.to_thread(desk.alice.decide, approval.approval_id, "approved")
            events: list[Event] = await following
    durable = [event for event in events if event.durable]
    assert [event.seq for event in durable] == list(range(1, len(durable) + 1))
    assert durable[-1].type == "run.ended"
    assert len({event.id for event in events}) == len(events)
    assert len(cuts) >= 3
