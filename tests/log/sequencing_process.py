"""A process with nothing but a sequencer, so that it may be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from holdfast.database.engine import create_engine
from holdfast.transparency.keys import FileKeys
from holdfast.transparency.sequencing import FROZEN_MS
from workers.process import run_until_stopped
from workers.sequencer import Sequencer


async def main(url: str, key_file: str, name: str, frozen_ms: str = str(FROZEN_MS)) -> int:
    """Numbers and signs until it is stopped."""
    engine = create_engine(url, process="sequencer")
    keys = FileKeys(Path(key_file))
    try:
        return await run_until_stopped(Sequencer(engine, keys, name=name, interval_ms=50, frozen_ms=int(frozen_ms)))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
