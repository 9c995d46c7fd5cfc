"""`python -m demo.refund_desk.world --dir D`: runs the servers until a signal, or until whoever started them dies."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from demo.refund_desk.world.servers import World

_PR_SET_PDEATHSIG = 1
_PARENT_LOOK_INTERVAL_S = 0.5


def _die_with_parent() -> None:
    """Asks Linux for SIGTERM at the parent's death; `_orphaned` does the same elsewhere, and if it died before."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


async def _orphaned(parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing announces it, it has to be looked at
        await asyncio.sleep(_PARENT_LOOK_INTERVAL_S)


async def _serve(folder: Path, smtp_port: int, payments_port: int, parent: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with World(folder, smtp_port=smtp_port, payments_port=payments_port) as world:
        ready = {
            "event": "ready",
            "smtp_port": world.mail.port,
            "payments_url": world.payments.base_url,
            "payments_api_key": world.api_key,
            "sent": str(world.sent),
            "credentials": world.credentials(),
        }
        print(json.dumps(ready), flush=True)
        waits = [asyncio.create_task(stopped.wait()), asyncio.create_task(_orphaned(parent))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def main() -> None:
    """Reads the command line and serves."""
    parent = os.getppid()
    _die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m demo.refund_desk.world", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder in which the world remembers")
    parser.add_argument("--smtp-port", type=int, default=0, help="0: a free one")
    parser.add_argument("--payments-port", type=int, default=0, help="0: a free one")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.dir, arguments.smtp_port, arguments.payments_port, parent))


if __name__ == "__main__":
    main()
