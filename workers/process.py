"""What every worker process does alike: run its parts side by side, and stop them when a signal asks for it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Final, NoReturn, Protocol

import structlog
import uvloop

from holdfast.errors import HoldfastError

log = structlog.get_logger("process")

_OBJECTS_A_COLLECTION: Final = 20_000


class Part(Protocol):
    """Something that a process runs beside others."""

    async def run(self) -> None:
        """Runs until stopped; ends earlier only by an error."""

    def stop(self) -> None:
        """Lets what is under way end, and nothing new begin."""


async def stop_signal() -> None:
    """Returns when SIGTERM or SIGINT has come; from then on both are ignored, up to the process's last moment."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    for number in numbers:
        # not left to the loop, which gives the signals their deadly meaning back when it closes
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def spare_collector() -> None:
    """Has the garbage collector pass over what a process begins with, and look less often at the rest.

    Modules and their classes are never garbage, and nearly all that a request makes is gone with its last reference. As Python has it,
    a governor under load spends a ninth of its processor time on looking for cycles that are not there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_A_COLLECTION)


async def run_until_stopped(*parts: Part) -> int:
    """Runs parts until a signal to stop, or until one of them ends; all have ended then.

    A part that fails fails the process, and whoever supervises it starts it anew.

    Returns:
        The process's exit code: 0 if a signal asked for the end.
    """
    spare_collector()
    stopping = asyncio.create_task(stop_signal())
    tasks = [asyncio.create_task(part.run()) for part in parts]
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    for part in parts:
        part.stop()
    await asyncio.gather(*tasks)
    if stopping.done():
        return 0
    stopping.cancel()
    return 1


def main(run: Coroutine[None, None, int]) -> NoReturn:
    """Runs a process to its end, which is its exit code; a setting that is wrong is said in a sentence."""
    try:
        sys.exit(uvloop.run(run))
    except HoldfastError as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        sys.exit(2)


def leave(code: int, *, abandoned: bool = False) -> int:
    """Returns the exit code; a process that has abandoned something ends here and now, for nothing would ever end it."""
    log.info("stopped")
    if abandoned:
        sys.stderr.flush()
        os._exit(code)
    return code
