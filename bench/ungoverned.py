"""The baselines of `bench overhead`: the same agent on Temporal alone, and the same plus two plain commits an action.

`python -m bench.ungoverned workflows` and `… executor` are its two worker processes, laid out like governor and executor.
The executing activities do the same work by the same code: the SDK's streamed call, tokens to Redis, heartbeats, the tool.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

import uvloop
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel
    from sqlalchemy import text

    from activities.heartbeat import beating
    from activities.model_call import call_model
    from activities.tools.dispatch import run_tool
    from activities.tools.invocation import ToolInvocation
    from holdfast.database.engine import create_engine
    from holdfast.providers.model import Delta, ModelRequest, ToolSpec
    from holdfast.timeline.stream import Publisher, connect_redis
    from holdfast.tools.registry import TOOLS, json_schema
    from holdfast_verdict.canonical import JsonValue
    from workers.process import stop_signal

WORKFLOWS_QUEUE = "bench-workflows"
EXECUTOR_QUEUE = "bench-executor"
CREATE_COMMITS = (
    "CREATE TABLE bench_commits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)"
)


class BareStart(BaseModel):
    """Input of a baseline run: with the floor's two commits an action, or without."""

    prompt: str
    model: str
    floor: bool


class BareCall(BaseModel):
    """A model call as plain Temporal agents send it: the whole conversation."""

    model: str
    entries: list[dict[str, Any]]  # transcript entries are open JSON
    step: int


class BareTool(BaseModel):
    """A tool call with its arguments."""

    tool: str
    arguments: dict[str, Any]  # each tool has its own
    step: int


class _FreeOutward:
    """Nobody to ask: what the lease does under governance costs the baselines nothing."""

    remaining_ms = 60_000

    async def begin(self) -> None:
        """Allows."""

    def assert_live(self) -> None:
        """Allows."""


class Executing:
    """The same executing activities without a gate."""

    def __init__(self, publisher: Publisher, credentials: dict[str, dict[str, Any]]) -> None:
        self._publisher = publisher
        self._credentials = credentials

    @activity.defn
    async def bare_llm_call(self, call: BareCall) -> dict[str, Any]:
        """Calls the model and returns its answer."""
        run_id = UUID(activity.info().workflow_id)
        spec = ToolSpec("mail.list", TOOLS["mail.list"].description, json_schema("mail.list"))
        request = ModelRequest("anthropic", call.model, 1_000, "You read the inbox.", call.entries, [spec])

        async def on_delta(delta: Delta) -> None:
            data: dict[str, JsonValue] = {"step": call.step, "try": 1, "text": delta.text}
            await self._publisher.delta(UUID(int=0), run_id, delta.channel, f"{delta.channel}.delta", data)

        async with beating():
            outcome = await call_model(
                request, self._credentials["provider"], str(run_id), _FreeOutward(), on_delta, 60_000
            )
        if not outcome.ok:
            raise RuntimeError(outcome.error_message)
        return outcome.to_json()

    @activity.defn
    async def bare_tool_call(self, call: BareTool) -> str:
        """Runs the tool and returns what the model is shown."""
        invocation = ToolInvocation(
            call.tool,
            TOOLS[call.tool],
            call.arguments,
            self._credentials["mail"],
            "bench",
            activity.info().workflow_id or "",
            _FreeOutward(),
        )
        async with beating():
            result = await run_tool(invocation)
        return result.content


class Committing:
    """The floor: one plain commit."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, process="bench-floor", pool_size=20)

    @activity.defn
    async def plain_commit(self, payload: str) -> None:
        """Writes one row and commits."""
        async with self._engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO bench_commits (payload) VALUES (:payload)"), {"payload": payload}
            )


@workflow.defn
class BareRun:
    """The loop agent, ungoverned."""

    def __init__(self) -> None:
        self._floor = False
        self._step = 0

    @workflow.run
    async def run(self, start: BareStart) -> int:
        """Thinks and acts until there is nothing left to do; returns the number of actions."""
        self._floor = start.floor
        entries: list[dict[str, Any]] = [{"kind": "user", "text": start.prompt}]
        while True:
            call = BareCall(model=start.model, entries=entries, step=self._step)
            outcome: dict[str, Any] = await self._act("bare_llm_call", call)
            calls = outcome["tool_calls"]
            entries.append(
                {
                    "kind": "assistant",
                    "text": outcome["text"],
                    "thinking": outcome["thinking"],
                    "tool_calls": calls,
                    "stop_reason": outcome["stop_reason"],
                }
            )
            if not calls:
                return self._step
            for proposed in calls:
                tool = BareTool(tool=proposed["tool"], arguments=proposed["arguments"], step=self._step)
                content = await self._act("bare_tool_call", tool)
                entries.append(
                    {
                        "kind": "tool_result",
                        "call_id": proposed["call_id"],
                        "tool": proposed["tool"],
                        "ok": True,
                        "content": content,
                    }
                )

    async def _act(self, name: str, argument: BaseModel) -> Any:  # each activity has a result of its own
        self._step += 1
        if self._floor:
            await self._commit()
        result = await workflow.execute_activity(
            name,
            argument,
            task_queue=EXECUTOR_QUEUE,
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=1),
            summary=f"step {self._step}",
        )
        if self._floor:
            await self._commit()
        return result

    async def _commit(self) -> None:
        await workflow.execute_local_activity(
            "plain_commit", f"step {self._step}", start_to_close_timeout=timedelta(seconds=10)
        )


async def main(part: str) -> None:
    """Runs one of the two worker processes until a signal to stop."""
    environment = os.environ
    client = await Client.connect(
        environment["HOLDFAST_TEMPORAL_ADDRESS"],
        namespace=environment["HOLDFAST_TEMPORAL_NAMESPACE"],
        data_converter=pydantic_data_converter,
    )
    if part == "workflows":
        committing = Committing(environment["BENCH_DATABASE_URL"])
        worker = Worker(
            client,
            task_queue=WORKFLOWS_QUEUE,
            workflows=[BareRun],
            activities=[committing.plain_commit],
            workflow_runner=UnsandboxedWorkflowRunner(),  # as the governor
        )
    else:
        publisher = Publisher(connect_redis(environment["HOLDFAST_REDIS_URL"]))
        executing = Executing(publisher, json.loads(environment["BENCH_CREDENTIALS"]))
        worker = Worker(
            client,
            task_queue=EXECUTOR_QUEUE,
            activities=[executing.bare_llm_call, executing.bare_tool_call],
            max_concurrent_activities=100,
        )
    async with worker:
        print("ready", flush=True)
        await stop_signal()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
