"""What every worker process does alike: wait for the signal to stop."""

from __future__ import annotations

import asyncio
import signal


async def stop_signal() -> None:
    """Returns when SIGTERM or SIGINT has come."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
