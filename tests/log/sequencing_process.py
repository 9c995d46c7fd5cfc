"""A process with nothing but a sequencer, so that it may be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from holdfast.database.engine import create_engine
from holdfast.transparency.keys import FileKeys
from workers.process import run_until_stopped
from workers.sequencer import Sequencer


async def main(url: str, key_file: str, name: str) -> int:
    """Numbers and signs until it is stopped."""
    engine = create_engine(url, process="sequencer")
    try:
        return await run_until_stopped(Sequencer(engine, FileKeys(Path(key_file)), name=name, interval_ms=50))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
