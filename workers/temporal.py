"""The way to Temporal: client with codec, the namespace with its search attributes and retention."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from google.protobuf.duration_pb2 import Duration
from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from holdfast import temporal_logs
from holdfast.codec import data_converter
from holdfast.runs.start import ensure_search_attributes
from holdfast.settings import CommonSettings, read_key_file

RETENTION = timedelta(days=30)
_CONNECT_MAX_S = 60.0
_HAND_BACK_S = 5.0
"""After a process's grace: time to store what is true of what could not end."""

log = structlog.get_logger("process")


async def connect(settings: CommonSettings) -> Client:
    """Connects to Temporal; waits for a server that is still starting.

    Raises:
        RuntimeError: It did not answer within a minute.
    """
    # the SDK's loggers leave ids out of their sentences: they stand in the line as `run_id`, `activity_type` and `attempt`
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    runtime = temporal_logs.runtime()
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(RuntimeError),
        wait=wait_random_exponential(multiplier=0.4, max=2.0),
        stop=stop_after_delay(_CONNECT_MAX_S),
        reraise=True,
    ):
        with attempt:
            return await Client.connect(
                settings.temporal_address,
                namespace=settings.temporal_namespace,
                data_converter=data_converter(read_key_file(settings.codec_key_file)),
                runtime=runtime,
            )
    raise AssertionError  # AsyncRetrying ends with a client or an error


async def prepare_namespace(client: Client) -> None:
    """Makes the namespace, with its retention set rather than left to the default, and the search attributes (rule 8)."""
    try:
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(
                namespace=client.namespace,
                workflow_execution_retention_period=Duration(seconds=int(RETENTION.total_seconds())),
            )
        )
    except RPCError as error:
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
    async for attempt in AsyncRetrying(
        # a new namespace takes a moment until every part of the server knows it
        retry=retry_if_exception_type(RPCError),
        wait=wait_random_exponential(multiplier=0.4, max=1.0),
        stop=stop_after_delay(30),
        reraise=True,
    ):
        with attempt:
            await ensure_search_attributes(client)


class Working:
    """A Temporal worker as a part of a process.

    Attributes:
        abandoned: Whether something still ran when it was given up. Whoever takes that over finds what a crash leaves.
    """

    def __init__(self, worker: Worker, shutdown_grace_ms: int) -> None:
        self._worker = worker
        # the worker cancels what runs when the grace is over; local activities it waits for, however long they take
        self._give_up_after_s = shutdown_grace_ms / 1000 + _HAND_BACK_S
        self._stopping = asyncio.Event()
        self.abandoned = False

    async def run(self) -> None:
        """Takes work and does it until stopped."""
        running = asyncio.create_task(self._worker.run())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not running.done():
            shutting = asyncio.create_task(self._worker.shutdown())
            await asyncio.wait([running], timeout=self._give_up_after_s)
            shutting.cancel()
        if running.done():
            running.result()
        else:
            log.warning("work.abandoned", effect="it is taken over as after a crash: nothing is lost or doubled")
            self.abandoned = True

    def stop(self) -> None:
        """Takes no more; what runs has its grace."""
        self._stopping.set()
