"""`code.exec`: runs code in the sandbox under a redeemed permit and stores the outcome as its last act."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final, Literal, cast
from uuid import UUID

from temporalio import activity
from temporalio.client import Client

from activities import code_answer, execution
from activities.code_host import CodeHost
from activities.code_requests import CodeRequests
from activities.execution import Execution
from activities.live_output import LiveOutput
from holdfast.artefacts.storage import ObjectStorage, StorageUnavailable
from holdfast.contracts import names
from holdfast.contracts.execution import ExecuteReply, ExecuteRequest
from holdfast.contracts.tiers import PROCESS, Tier
from holdfast.errors import ExecutorStopped, HoldfastError, LeaseLost
from holdfast.ledger.types import OutcomeView
from holdfast.timeline.stream import Publisher
from holdfast_verdict.canonical import JsonValue
from sandbox.errors import JobInvalid, LayerMissing, RuntimeMissing, SandboxLost
from sandbox.job import Job, Limits, Result
from sandbox.service import Sandbox

_MIB: Final = 2**20


class CodeExec:
    """The executing activity of `code.exec`.

    Args:
        host: Where code runs.
        objects: Where files come from and go to; None where it is S3, which each execution reaches by its own right.
        publisher: Gets what the code prints, as it prints.
        client: The way to the run, of which code may ask for calls of its tools.
        requests_max: How many requests one job may make.
    """

    def __init__(
        self, host: CodeHost, objects: ObjectStorage | None, publisher: Publisher, client: Client, requests_max: int
    ) -> None:
        self._host = host
        self._client = client
        self._requests_max = requests_max
        self._objects = objects
        self._publisher = publisher

    @activity.defn(name=names.EXECUTE_CODE)
    async def execute_code(self, request: ExecuteRequest) -> ExecuteReply:
        """Runs the code once. Retries are the workflow's, each with a hold of its own (rule 2)."""
        current = execution.current()
        lease = current.lease
        try:
            args = cast("Mapping[str, JsonValue]", current.action["args"])
            # an action of before there were tiers names none
            sandbox = await self._host.sandbox(cast("Tier", args.get("tier", PROCESS)))
            job = await self._job(current)
        except HoldfastError as error:
            # nothing has begun: the hold is given back, and the model reads why (LAW 7)
            remedy = f" {error.remedy}" if error.remedy else ""
            retryable = isinstance(error, SandboxLost | StorageUnavailable)
            await lease.store(code_answer.nothing(error.code, f"{error.message}.{remedy}", retryable=retryable))
            return ExecuteReply(stored=True)
        # INVARIANT (LAW 1): the lease is asked for right before the job starts; from here on it counts as begun
        await lease.begin()
        try:
            lease.assert_live()
        except LeaseLost as error:
            await lease.store(code_answer.nothing(error.code, "it was too late, nothing was run", retryable=True))
            return ExecuteReply(stored=True)
        await lease.store(await self._run(current, sandbox, job))
        return ExecuteReply(stored=True)

    def _storage(self, current: Execution) -> ObjectStorage:
        storage = current.objects if self._objects is None else self._objects
        assert storage is not None  # every `code.exec` comes with it
        return storage

    async def _job(self, current: Execution) -> Job:
        """Makes the job of an action; each file is the one whose digest was decided on (LAW 1)."""
        args = cast("Mapping[str, JsonValue]", current.action["args"])
        files: dict[str, bytes] = {}
        for file in cast("list[Mapping[str, JsonValue]]", args["files"]):
            files[str(file["name"])] = await self._storage(current).get(
                UUID(current.permit.tenant_id), str(file["sha256"]), cast(int, file["size_bytes"])
            )
        timeout_ms = cast(int, args["timeout_ms"])
        limits = Limits(
            wall_ms=timeout_ms, cpu_s=-(-timeout_ms // 1_000), memory_bytes=cast(int, args["memory_mb"]) * _MIB
        )
        # an action of before these arguments were there has none of them
        return Job(
            str(args["code"]),
            files=files,
            limits=limits,
            name="code.py",
            language=cast('Literal["python", "shell", "node"]', args["language"]),
            runtime=cast('Literal["plain", "data"]', args.get("runtime", "plain")),
            packages=str(args.get("packages", "")),
        )

    async def _run(self, current: Execution, sandbox: Sandbox, job: Job) -> OutcomeView:
        """Runs a job to its end, or ends it with its run; returns what came of it either way.

        Raises:
            CancelledError: It was cancelled, and its outcome is stored.
        """
        began = time.monotonic()
        requests = CodeRequests(
            self._client,
            self._publisher,
            current.permit,
            current.lease,
            requests_max=self._requests_max,
            timeout_ms=job.limits.wall_ms,
        )
        async with LiveOutput(self._publisher, current.permit) as live:
            running = asyncio.create_task(sandbox.submit(job, act=requests.act, on_output=live.take))
            try:
                result = await asyncio.shield(running)
            except asyncio.CancelledError:
                running.cancel()
                await asyncio.wait([running])
                await current.lease.store(self._ended_early(running, began, sandbox, job))
                raise
            except (JobInvalid, LayerMissing, RuntimeMissing) as error:
                remedy = f". {error.remedy}" if error.remedy else ""
                return code_answer.nothing(error.code, f"{error.message}{remedy}")
            except SandboxLost as error:
                await self._host.forget(sandbox)
                used = code_answer.used_at_most(time.monotonic() - began, job.limits.memory_bytes)
                return code_answer.stopped(error.code, error.message, used, sandbox.receipt)
        return await self._keep(current, result, requests.called)

    def _ended_early(self, running: asyncio.Task[Result], began: float, sandbox: Sandbox, job: Job) -> OutcomeView:
        """The run was cancelled, or its process stops: the job was ended, and what it can have used is paid (LAW 4)."""
        code = ExecutorStopped.code if execution.handed_back() else "run.cancelled"
        if not running.cancelled() and running.exception() is None:
            return code_answer.outcome_of(running.result(), [], {}, {})  # it ended just then
        used = code_answer.used_at_most(time.monotonic() - began, job.limits.memory_bytes)
        return code_answer.stopped(code, "the code was ended before it was done", used, sandbox.receipt)

    async def _keep(self, current: Execution, result: Result, called: Mapping[str, JsonValue]) -> OutcomeView:
        """Puts a job's files into object storage, before the outcome that names them is stored."""
        kept: list[Mapping[str, JsonValue]] = []
        refused = dict(result.refused)
        for file in result.files:
            assert isinstance(file.content, bytes)  # no folder was given for them
            try:
                sha256 = await self._storage(current).put(UUID(current.permit.tenant_id), file.content)
            except HoldfastError as error:
                # what the code did is done and paid; that its file is not kept is said, and nothing names it (LAW 7)
                refused[file.name] = error.message
                continue
            kept.append({"name": file.name, "size_bytes": file.size_bytes, "sha256": sha256})
        return code_answer.outcome_of(result, kept, refused, called)
