"""Workflow code that nobody reviewed: it schedules whatever it is told to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from holdfast.contracts.execution import ExecuteReply, ExecuteRequest


@dataclass(frozen=True)
class Wish:
    """What the rogue is to schedule, with this permit or, if it is `none`, without any argument, and how long it waits for it."""

    how: str
    what: str
    queue: str
    permit: str
    bound_s: int = 60


@workflow.defn(name="Rogue")
class Rogue:
    @workflow.run
    async def run(self, start: RawValue) -> None:
        wish: Wish = workflow.payload_converter().from_payload(start.payload, Wish)
        # Any: whatever it likes
        argument: list[Any] = [] if wish.permit == "none" else [ExecuteRequest(permit=wish.permit)]
        once = RetryPolicy(maximum_attempts=1)
        bound = timedelta(seconds=wish.bound_s)
        if wish.how == "activity":
            await workflow.execute_activity(
                wish.what,
                args=argument,
                task_queue=wish.queue,
                schedule_to_close_timeout=bound,
                retry_policy=once,
                result_type=ExecuteReply,
            )
        elif wish.how == "activity with retries":
            await workflow.execute_activity(
                wish.what, args=argument, task_queue=wish.queue, schedule_to_close_timeout=bound
            )
        elif wish.how == "local activity":
            await workflow.execute_local_activity(
                wish.what, args=argument, schedule_to_close_timeout=bound, retry_policy=once
            )
        else:
            await workflow.execute_child_workflow(wish.what)
