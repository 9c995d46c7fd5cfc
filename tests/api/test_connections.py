"""Who closes a connection that nobody uses: the client, never the server under a request that is on its way."""

from __future__ import annotations

import asyncio

import httpx

from .world import World

_CLIENTS_KEEP_S = 5
"""How long httpx keeps a connection."""


async def test_a_connection_outlasts_what_clients_keep_it_for(world: World) -> None:
    url = httpx.URL(world.api.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for path, status, idle_s in ((b"/healthz", b"200", _CLIENTS_KEEP_S + 1), (b"/nowhere", b"404", 0)):
            writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: " + url.netloc + b"\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 " + status), 60)
            await asyncio.sleep(idle_s)
    finally:
        writer.close()
