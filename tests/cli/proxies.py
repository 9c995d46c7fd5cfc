"""Networks that fail: connections that break wherever it happens, and an answer that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CUT_AFTER_BYTES = 3_000


@asynccontextmanager
async def breaking_proxy(
    port: int, *, cut_after: int = _CUT_AFTER_BYTES, cuts_max: int | None = None
) -> AsyncIterator[tuple[str, list[int]]]:
    """Passes connections on to a port, and cuts each after some bytes of its answer, wherever that is.

    With `cut_after=0` the answer is waited for and then lost. After `cuts_max` cuts all goes well. When the block is left,
    whatever is connected is cut.
    """
    cuts: list[int] = []
    open_: set[asyncio.WriteTransport] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        transports = {writer.transport, downstream.transport}
        open_.update(transports)

        async def up() -> None:
            while data := await reader.read(65_536):
                downstream.write(data)
                await downstream.drain()

        rising = asyncio.create_task(up())
        left = cut_after if cuts_max is None or len(cuts) < cuts_max else 1 << 60
        while data := await upstream.read(min(max(left, 1), 65_536)):
            if left <= 0:
                break
            writer.write(data)
            await writer.drain()
            left -= len(data)
            if left <= 0:
                break
        if left <= 0:
            cuts.append(1)
        for transport in transports:
            transport.abort()
        open_.difference_update(transports)
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", cuts
        finally:
            server.close()
            for transport in list(open_):
                transport.abort()
