"""What every worker process does alike: run its parts side by side, and stop them when a signal asks for it."""

from __future__ import annotations

import asyncio
import signal
from typing import Protocol


class Part(Protocol):
    """Something that a process runs beside others."""

    async def run(self) -> None:
        """Runs until stopped; ends earlier only by an error."""

    def stop(self) -> None:
        """Lets what is under way end, and nothing new begin."""


async def stop_signal() -> None:
    """Returns when SIGTERM or SIGINT has come."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


async def run_until_stopped(*parts: Part) -> int:
    """Runs parts until a signal to stop, or until one of them ends; all have ended then.

    A part that fails fails the process, and whoever supervises it starts it anew.

    Returns:
        The process's exit code: 0 if a signal asked for the end.
    """
    stopping = asyncio.create_task(stop_signal())
    tasks = [asyncio.create_task(part.run()) for part in parts]
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for part in parts:
        part.stop()
    await asyncio.gather(*tasks)
    if stopping.done():
        return 0
    stopping.cancel()
    return 1
