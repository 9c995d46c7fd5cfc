"""A client of event streams that keeps what it got, to check order, loss and doubling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

# an envelope as it was received
Event = dict[str, Any]


async def events(
    client: httpx.AsyncClient, run_id: str, *, last_id: str | None = None, **params: str
) -> AsyncIterator[Event]:
    """Yields envelopes until the stream ends."""
    headers = {"last-event-id": last_id} if last_id else {}
    timeout = httpx.Timeout(60, read=120)
    async with client.stream(
        "GET", f"/v1/runs/{run_id}/events", headers=headers, params=params, timeout=timeout
    ) as answer:
        if answer.status_code == 204:
            return
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        event_id = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                envelope: Event = json.loads(line[6:])
                assert envelope["id"] == event_id
                yield envelope


async def collect(client: httpx.AsyncClient, run_id: str, *, last_id: str | None = None, **params: str) -> list[Event]:
    """Returns all events of a run that ends."""
    async with asyncio.timeout(120):
        return [event async for event in events(client, run_id, last_id=last_id, **params)]


async def take(client: httpx.AsyncClient, run_id: str, count: int, *, last_id: str | None = None) -> list[Event]:
    """Returns the first events and hangs up."""
    got: list[Event] = []
    async with asyncio.timeout(120):
        stream = events(client, run_id, last_id=last_id)
        async for event in stream:
            got.append(event)
            if len(got) == count:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator has it
    return got


def key(event: Event) -> tuple[int, int]:
    """Returns the place of an event in the order."""
    seq, _, n = event["id"].partition(".")
    return int(seq), int(n or 0)


def check_order(got: list[Event]) -> None:
    """Checks that ids grow strictly and durable events have no gaps."""
    places = [key(event) for event in got]
    assert places == sorted(set(places)), places
    durable = [seq for seq, n in places if n == 0]
    if durable:
        assert durable == list(range(durable[0], durable[-1] + 1))
    assert all(event["seq"] == key(event)[0] for event in got)
