"""Heartbeats in the background, so that a dead executor is noticed and a cancelled run reaches its execution.

A beat that comes late costs more than a beat too many: an executor that is not heard in time is taken for dead, and what it had sent
is `unknown`, though it lives. So three fit into the time that it may be silent, and Temporal's SDK, which holds back beats that follow
each other too soon, is told to hold back none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from temporalio import activity

BEATS: Final = 3
"""How many fit into the time that an executor may be silent."""
THROTTLE: Final = timedelta(milliseconds=150)
"""What the SDK holds back: less than lies between two beats, whatever the timeout (500 ms at least)."""


@asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Heartbeats for as long as the block runs."""
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        yield
        return

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(timeout.total_seconds() / BEATS)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
