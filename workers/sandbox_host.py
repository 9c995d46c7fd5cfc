"""`python -m workers.sandbox_host`: runs code and nothing else, on a host of its own; for executors with `HOLDFAST_CODE_SLOTS=0`.

It starts its sandbox first: where a layer is missing it ends, and says which one and what to do.
"""

from __future__ import annotations

import structlog

from activities.broker import BrokerClient
from holdfast import logs
from holdfast.contracts import names
from holdfast.database.engine import create_engine
from holdfast.database.version import require_schema
from holdfast.settings import ExecutorSettings, load, warn_of_misspellings
from holdfast.timeline.stream import Publisher, connect_redis
from workers import process, temporal
from workers.executor import build_code_worker, code_host

log = structlog.get_logger("executor")


async def main() -> int:
    """Runs until a signal to stop.

    Raises:
        LayerMissing: The sandbox cannot run here as it should (LAW 7).
        BackendMissing: What is to isolate is not here.
    """
    settings = load(ExecutorSettings)
    logs.configure("executor", settings.log_level)
    warn_of_misspellings(ExecutorSettings)
    host = code_host(settings)
    await host.start()
    engine = create_engine(settings.executor_database_url, process="executor")
    redis = connect_redis(settings.redis_url)
    broker = BrokerClient(settings.broker_url, engine)
    await require_schema(engine)
    client = await temporal.connect(settings)
    worker = build_code_worker(client, broker, Publisher(redis), host, settings)
    part = temporal.Working(worker, settings.shutdown_grace_ms)
    log.info("ready", queues=[names.CODE_QUEUE])
    code = await process.run_until_stopped(part)
    await host.close()
    await broker.close()
    await redis.aclose()
    await engine.dispose()
    return process.leave(code, abandoned=part.abandoned)


if __name__ == "__main__":
    process.main(main())
