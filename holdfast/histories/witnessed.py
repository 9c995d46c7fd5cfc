"""What a history says was done: the activities that it scheduled, with their permits and their ends, and whatever a run must not do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import orjson
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import PayloadCodec

from holdfast import permits
from holdfast.contracts import names
from holdfast.errors import HoldfastError
from holdfast.histories.fetching import Execution
from holdfast.permits import Permit

_LOCAL_MARKER: Final = "core_local_activity"
_OUTSIDE: Final = {
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: "started another workflow",
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: "sent a signal to another workflow",
    EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: "asked to cancel another workflow",
    EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED: "called another service",
}

End = Literal["open", "never_started", "completed", "failed", "timed_out", "cancelled"]


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity that a history has scheduled.

    Attributes:
        execution: The execution of the workflow.
        activity_id: Its id, `step-N-try-M` if Holdfast's workflow scheduled it.
        activity_type: What was to run.
        permit: What the permit says that it was given; None if it was given none.
        end: How it ended; `open` if the history does not say, which it does not when the workflow ended before.
        code: What it failed with.
    """

    execution: str
    activity_id: str
    activity_type: str
    permit: Permit | None
    end: End = "open"
    code: str = ""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What the history of a run says.

    Attributes:
        activities: Its activities, each once.
        strays: What else reached outside the run, as ends of sentences.
        executions: How many executions of the workflow it has.
        events: How many events.
    """

    activities: tuple[Activity, ...]
    strays: tuple[str, ...]
    executions: int
    events: int


async def read(executions: Iterable[Execution], codec: PayloadCodec | None) -> Witnessed:
    """Reads histories.

    Args:
        executions: All executions of a run's workflow.
        codec: What decrypts their payloads.
    """
    activities: dict[tuple[int, str, str, Permit | None], Activity] = {}
    strays: list[str] = []
    count = events = 0
    for execution in executions:
        count += 1
        events += len(execution.history.events)
        scheduled: dict[int, Activity] = {}
        for event in execution.history.events:
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled[event.event_id] = await _scheduled(execution.run_id, event, codec)
            elif ended := _ended(event):
                place, end, code = ended
                scheduled[place] = replace(scheduled[place], end=end, code=code)
            elif stray := _stray(event):
                strays.append(stray)
        for place, one in scheduled.items():
            # an execution that was reset begins with a copy of the other's events: the one that knows the end counts
            key = (place, one.activity_id, one.activity_type, one.permit)
            if key not in activities or activities[key].end == "open":
                activities[key] = one
    return Witnessed(tuple(activities.values()), tuple(dict.fromkeys(strays)), count, events)


async def _scheduled(execution: str, event: HistoryEvent, codec: PayloadCodec | None) -> Activity:
    said = event.activity_task_scheduled_event_attributes
    permit = await _permit(list(said.input.payloads), codec)
    return Activity(execution, said.activity_id, said.activity_type.name, permit)


async def _permit(payloads: list[Payload], codec: PayloadCodec | None) -> Permit | None:
    if len(payloads) != 1:
        return None
    try:
        [payload] = payloads if codec is None else await codec.decode(payloads)
        request = orjson.loads(payload.data)
    except (HoldfastError, ValueError):
        return None  # what nobody can read is no permit (LAW 7)
    token = request.get("permit") if isinstance(request, dict) else None
    return permits.claims(token) if isinstance(token, str) and token else None


def _ended(event: HistoryEvent) -> tuple[int, End, str] | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            return event.activity_task_completed_event_attributes.scheduled_event_id, "completed", ""
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            return failed.scheduled_event_id, "failed", failed.failure.application_failure_info.type
        case EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            late = event.activity_task_timed_out_event_attributes
            return late.scheduled_event_id, "timed_out" if late.started_event_id else "never_started", ""
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            cancelled = event.activity_task_canceled_event_attributes
            return cancelled.scheduled_event_id, "cancelled" if cancelled.started_event_id else "never_started", ""
    return None


def _stray(event: HistoryEvent) -> str:
    if event.event_type in _OUTSIDE:
        return _OUTSIDE[event.event_type]
    if event.event_type != EventType.EVENT_TYPE_MARKER_RECORDED:
        return ""
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != _LOCAL_MARKER:
        return ""
    names_of = list(_local_names(marker.details["data"].payloads))
    return (
        ""
        if len(names_of) == 1 and names_of[0] in names.LOCAL_ACTIVITIES
        else (
            f"ran {', '.join(names_of) or 'something unnamed'} in the governor, which is none of the gate's own activities"
        )
    )


def _local_names(payloads: Iterable[Payload]) -> Iterator[str]:
    for payload in payloads:
        try:
            said = orjson.loads(payload.data)
        except ValueError:
            continue
        if isinstance(said, dict) and isinstance(said.get("activity_type"), str):
            yield said["activity_type"]
