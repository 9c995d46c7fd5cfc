"""`python -m workers.embedded`: governor, broker, sweepers and sequencer in one process, for a stack on one machine.

The seams are those of the processes apart: executors reach the broker over HTTP, and each part has a database role of its own.
"""

from __future__ import annotations

import structlog

from holdfast import logs
from holdfast.contracts import names
from holdfast.settings import BrokerSettings, GovernorSettings, load_both, warn_of_misspellings
from workers import process
from workers.broker import brokering
from workers.governor import governing

log = structlog.get_logger("governor")


async def main() -> int:
    """Runs until a signal to stop."""
    settings, broker_settings = load_both(GovernorSettings, BrokerSettings)
    logs.configure("governor", settings.log_level)
    warn_of_misspellings(GovernorSettings, BrokerSettings)
    async with (
        brokering(broker_settings) as broker,
        governing(settings) as (
            worker,
            sweepers,
            sequencer,
        ),
    ):
        log.info("ready", queue=names.GOVERNOR_QUEUE, broker=broker.address)
        code = await process.run_until_stopped(broker, worker, sweepers, sequencer)
    return process.leave(code, abandoned=worker.abandoned)


if __name__ == "__main__":
    process.main(main())
