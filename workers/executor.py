"""`python -m workers.executor`: runs executing activities. It holds no credential; each comes with a redeemed permit (LAW 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from activities import heartbeat, provider_sdk
from activities.broker import BrokerClient
from activities.code_exec import CodeExec
from activities.code_host import CodeHost
from activities.llm_call import LlmCall
from activities.tool_call import ToolCall
from holdfast import logs, permits
from holdfast.artefacts.objects import ObjectFolder
from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.contracts.tiers import by_tier
from holdfast.database.engine import create_engine
from holdfast.database.version import require_schema
from holdfast.settings import ExecutorSettings, load, read_key_file, warn_of_misspellings
from holdfast.timeline.stream import Publisher, connect_redis
from sandbox.service import Settings
from workers import process, temporal
from workers.interceptors import PermitInterceptor
from workers.webhook_sender import WebhookSender

log = structlog.get_logger("executor")


def build_workers(
    client: Client, broker: BrokerClient, publisher: Publisher, host: CodeHost, settings: ExecutorSettings
) -> list[Worker]:
    """Builds the workers of one executor: one for each kind of action it executes."""
    llm_call, tool_call = LlmCall(publisher), ToolCall(settings.tool_memory_mb * 1024**2)
    bodies = [
        (names.LLM_QUEUE, llm_call.execute_llm_call, settings.llm_slots),
        (names.TOOL_QUEUE, tool_call.execute_tool_call, settings.tool_slots),
    ]
    workers = [build_worker(client, broker, settings, *each) for each in bodies]
    if settings.code_slots:
        workers.append(build_code_worker(client, broker, publisher, host, settings))
    return workers


def code_host(settings: ExecutorSettings) -> CodeHost:
    """Returns the sandboxes of this process, not started."""
    old = settings.sandbox_allow_old.split(",")
    return CodeHost(
        {
            tier: Settings(
                profile=settings.sandbox_profile,
                backend=backend,
                allow_old=backend in old,
                running_max=max(settings.code_slots, 1),
                environments=settings.environments_folder,
            )
            for tier, backend in by_tier(settings.sandbox_backends.split(",")).items()
        }
    )


def build_code_worker(
    client: Client, broker: BrokerClient, publisher: Publisher, host: CodeHost, settings: ExecutorSettings
) -> Worker:
    """Builds the worker that runs code."""
    objects = None if settings.objects_folder is None else ObjectFolder(settings.objects_folder)
    body = CodeExec(host, objects, publisher, client, settings.code_requests_max).execute_code
    return build_worker(client, broker, settings, names.CODE_QUEUE, body, max(settings.code_slots, 1))


def build_worker(
    client: Client,
    broker: BrokerClient,
    settings: ExecutorSettings,
    queue: str,
    body: Callable[[ExecuteRequest], Awaitable[ExecuteReply]],
    slots: int,
) -> Worker:
    """Builds the worker of one kind of action; no activity of it runs without a permit (LAW 1)."""
    permit_key = permits.public_key(read_key_file(settings.permit_public_key_file))
    return Worker(
        client,
        task_queue=queue,
        activities=[body],
        interceptors=[PermitInterceptor(broker, permit_key)],
        max_concurrent_activities=slots,
        graceful_shutdown_timeout=timedelta(milliseconds=settings.shutdown_grace_ms),
        default_heartbeat_throttle_interval=heartbeat.THROTTLE,
        max_heartbeat_throttle_interval=heartbeat.THROTTLE,
    )


async def main() -> int:
    """Runs until a signal to stop."""
    settings = load(ExecutorSettings)
    logs.configure("executor", settings.log_level)
    warn_of_misspellings(ExecutorSettings)
    engine = create_engine(settings.executor_database_url, process="executor")
    redis = connect_redis(settings.redis_url)
    broker = BrokerClient(settings.broker_url, engine)
    await require_schema(engine)
    # while it connects; before anything is taken, for a big import holds heartbeats up
    loading = asyncio.create_task(provider_sdk.preload(settings.preloaded_providers))
    client = await temporal.connect(settings)
    await loading
    host = code_host(settings)
    workers = build_workers(client, broker, Publisher(redis), host, settings)
    log.info("ready", queues=[worker.task_queue for worker in workers])
    # INVARIANT: both at the same time, for the grace of one after the other's would be longer than supervisors wait
    parts = [temporal.Working(worker, settings.shutdown_grace_ms) for worker in workers]
    sender = WebhookSender(engine, list(filter(None, settings.webhook_private_hosts.split(","))))
    code = await process.run_until_stopped(*parts, sender)
    await host.close()
    await broker.close()
    await redis.aclose()
    await engine.dispose()
    return process.leave(code, abandoned=any(part.abandoned for part in parts))


if __name__ == "__main__":
    process.main(main())
