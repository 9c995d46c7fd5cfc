"""Reading what a run has left in Temporal: its permits, in clear, and its payloads as they lie there."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent

from holdfast.codec import ENCODING
from holdfast.contracts.execution import ExecuteRequest
from holdfast.settings import read_key_file

from .harness import Rig, Run


def payloads(message: Message) -> Iterator[Payload]:
    """Every payload anywhere in a message."""
    if isinstance(message, Payload):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            members = list(value.values())
        else:
            members = list(value) if descriptor.is_repeated else [value]
        for member in members:
            if isinstance(member, Message):
                yield from payloads(member)


def is_encrypted(payload: Payload) -> bool:
    return payload.metadata.get("encoding") == ENCODING


async def scheduled(run: Run, activity_id: str) -> HistoryEvent:
    """The event that scheduled an execution, such as `step-2-try-1`."""
    for event in (await run.history()).events:
        if event.activity_task_scheduled_event_attributes.activity_id == activity_id:
            return event
    raise AssertionError(f"{activity_id} was never scheduled\n{await run.story()}")


async def permit_of(rig: Rig, run: Run, activity_id: str) -> str:
    """The permit that an execution was given."""
    event = await scheduled(run, activity_id)
    converter = rig.client.data_converter
    [request] = await converter.decode(
        event.activity_task_scheduled_event_attributes.input.payloads, type_hints=[ExecuteRequest]
    )
    assert isinstance(request, ExecuteRequest)
    return request.permit


def signing_key(rig: Rig) -> bytes:
    """The governor's key, which nobody but the governor has."""
    return read_key_file(rig.stack.secrets.permit_key_file)
