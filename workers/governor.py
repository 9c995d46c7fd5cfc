"""`python -m workers.governor`: decides. Workflows with reserve and settle; the sweepers and the log's sequencer beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.answer_code import CodeAnswers
from activities.governor import Governor
from activities.reserve import Reserve
from activities.run_state import RunState
from activities.settle import Settle
from holdfast import logs, permits
from holdfast.actions.run_facts import RunReader
from holdfast.contracts import names
from holdfast.contracts.tiers import by_tier
from holdfast.database.engine import create_engine
from holdfast.database.version import require_schema
from holdfast.ledger.service import Ledger
from holdfast.settings import GovernorSettings, load, read_key_file, warn_of_misspellings
from holdfast.timeline.stream import Publisher, connect_redis
from holdfast.transparency.keys import key_source
from holdfast.webhooks.signature import webhook_key
from workers import process, temporal, workflow_code
from workers.sequencer import Sequencer
from workers.sweepers import Sweepers

log = structlog.get_logger("governor")


def build_worker(client: Client, governor: Governor, shutdown_grace_ms: int) -> Worker:
    """Builds the one worker that runs workflows."""
    reserve, settle, state = Reserve(governor), Settle(governor), RunState(governor)
    return Worker(
        client,
        task_queue=names.GOVERNOR_QUEUE,
        workflows=workflow_code.WORKFLOWS,
        activities=[
            reserve.reserve,
            settle.settle,
            settle.write_refusal,
            state.load_run,
            state.adopt_inputs,
            state.verify_approval,
            state.mark_run,
            state.finish_run,
            CodeAnswers(governor).answer_code,
        ],
        interceptors=workflow_code.interceptors(),
        # the gate's activities are local only: nothing may be dispatched to them through a task queue
        no_remote_activities=True,
        workflow_runner=UnsandboxedWorkflowRunner(),  # see workflow_code.checking_runner
        graceful_shutdown_timeout=timedelta(milliseconds=shutdown_grace_ms),
        max_cached_workflows=500,
        # how soon another governor takes over the runs that a dead one had in its memory
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )


@asynccontextmanager
async def governing(settings: GovernorSettings) -> AsyncIterator[tuple[temporal.Working, Sweepers, Sequencer]]:
    """Yields the worker, the sweepers and the sequencer, which work while their `run` does."""
    log_keys = key_source(settings.log_key.get_secret_value())
    permit_key = permits.private_key(read_key_file(settings.permit_key_file))
    engine = create_engine(settings.governor_database_url, process="governor", pool_size=20)
    sweeper_engine = create_engine(settings.sweeper_database_url, process="sweeper", pool_size=6)
    redis = connect_redis(settings.redis_url)
    publisher = Publisher(redis)
    governor = Governor(
        engine=engine,
        ledger=Ledger(engine),
        reader=RunReader(),
        publisher=publisher,
        permit_key=permit_key,
        heartbeat_timeout_ms=settings.heartbeat_timeout_ms,
        lease_llm_ms=settings.lease_llm_ms,
        lease_tool_ms=settings.lease_tool_ms,
        lease_code_ms=settings.lease_code_ms,
        tiers=tuple(by_tier(settings.sandbox_backends.split(","))),
        history_events_max=settings.history_events_max,
    )
    try:
        await require_schema(engine)
        client = await temporal.connect(settings)
        await temporal.prepare_namespace(client)
        worker = build_worker(client, governor, settings.shutdown_grace_ms)
        yield (
            temporal.Working(worker, settings.shutdown_grace_ms),
            Sweepers(sweeper_engine, client, publisher, settings, webhook_key(permit_key)),
            Sequencer(sweeper_engine, log_keys, name=settings.log_name, interval_ms=settings.log_interval_ms),
        )
    finally:
        await redis.aclose()
        for each in (engine, sweeper_engine):
            await each.dispose()


async def main() -> int:
    """Runs until a signal to stop."""
    settings = load(GovernorSettings)
    logs.configure("governor", settings.log_level)
    warn_of_misspellings(GovernorSettings)
    async with governing(settings) as (worker, sweepers, sequencer):
        log.info("ready", queue=names.GOVERNOR_QUEUE)
        code = await process.run_until_stopped(worker, sweepers, sequencer)
    return process.leave(code, abandoned=worker.abandoned)


if __name__ == "__main__":
    process.main(main())
