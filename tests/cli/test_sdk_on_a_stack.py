"""The SDK's events from a real run, through a connection that keeps breaking."""

from __future__ import annotations

import asyncio

from sdk import Event, Holdfast

from .desk import Desk, refund
from .proxies import breaking_proxy


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
