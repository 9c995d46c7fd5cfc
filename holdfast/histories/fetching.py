"""Fetching a run's history from Temporal: every execution of its workflow, with what it was reset from and continued as new from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from holdfast.runs.start import RPC_TIMEOUT

_GONE = (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a run's workflow.

    Attributes:
        run_id: Temporal's id of it.
        history: Its events.
    """

    run_id: str
    history: WorkflowHistory


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest execution of a workflow.

    Attributes:
        run_id: Temporal's id of it.
        is_open: Whether it still goes on.
    """

    run_id: str
    is_open: bool


async def newest(client: Client, workflow_id: str) -> Newest | None:
    """Returns the newest execution of a workflow, or None if Temporal knows none, or none any more."""
    try:
        described = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status in _GONE:
            return None
        raise
    assert described.run_id is not None  # what is described has one
    return Newest(described.run_id, described.status == WorkflowExecutionStatus.RUNNING)


async def executions(client: Client, workflow_id: str, run_id: str) -> AsyncIterator[Execution]:
    """Yields an execution, then those that it continued as new or was reset from, and so on to the first.

    An older execution of which Temporal has no history any more ends that way back.
    """
    waiting, seen = [run_id], {run_id}
    while waiting:
        following = waiting.pop(0)
        try:
            history = await client.get_workflow_handle(workflow_id, run_id=following).fetch_history()
        except RPCError as error:
            if error.status in _GONE and following != run_id:
                continue
            raise
        yield Execution(following, history)
        for before in _before(history):
            if before not in seen:
                seen.add(before)
                waiting.append(before)


def is_whole(executions: Sequence[Execution]) -> bool:
    """Says whether executions go back to the first: Temporal's retention ends for each of them by itself, the oldest first."""
    there = {execution.run_id for execution in executions}
    return all(before in there for execution in executions for before in _before(execution.history))


def _before(history: WorkflowHistory) -> list[str]:
    found = [history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id]
    # a reset leaves its mark where the execution left the way of the one it was reset from
    found += [event.workflow_task_failed_event_attributes.base_run_id for event in history.events]
    return [each for each in found if each]
