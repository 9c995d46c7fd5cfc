"""Replaying a run: its recorded history against the workflow code as it is now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.json_format import ParseError
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer

from holdfast.codec import EncryptingCodec, data_converter
from holdfast.errors import RequestInvalid
from holdfast.histories import fetching
from holdfast.histories.fetching import Execution
from workers import workflow_code


@dataclass(frozen=True, slots=True)
class Replayed:
    """One execution of a run, replayed.

    Attributes:
        run_id: Temporal's id of the execution.
        events: How many events its history has.
        divergence: What the code does otherwise than the history; empty if nothing.
    """

    run_id: str
    events: int
    divergence: str


async def fetch(client: Client, workflow_id: str) -> list[WorkflowHistory]:
    """Returns the histories of a run that Temporal has, first execution first; none if it has none, or none any more."""
    newest = await fetching.newest(client, workflow_id)
    if newest is None:
        return []
    return in_order([one async for one in fetching.executions(client, workflow_id, newest.run_id)])


def in_order(newest_first: Sequence[Execution]) -> list[WorkflowHistory]:
    """Returns the histories of executions, first execution first."""
    return [one.history for one in reversed(newest_first)]


async def replay(histories: Sequence[WorkflowHistory], codec_key: bytes) -> list[Replayed]:
    """Replays histories.

    Args:
        histories: What was recorded.
        codec_key: Key of its payloads; any, if they are not encrypted.
    """
    replayer = Replayer(
        workflows=workflow_code.WORKFLOWS,
        interceptors=workflow_code.interceptors(),
        workflow_runner=workflow_code.checking_runner(),
        data_converter=data_converter(codec_key),
    )
    results = []
    for history in histories:
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        failure = result.replay_failure
        divergence = "" if failure is None else str(failure) or type(failure).__name__
        results.append(Replayed(history.run_id, len(history.events), divergence))
    return results


async def decrypt(histories: Sequence[WorkflowHistory], codec_key: bytes) -> None:
    """Decrypts all payloads in place.

    Raises:
        PayloadRefused: A payload was altered, or is of another key.
    """
    codec = EncryptingCodec(codec_key)
    for history in histories:
        for event in history.events:
            for payload in _payloads(event):
                payload.CopyFrom((await codec.decode([payload]))[0])


def _payloads(message: Message) -> Iterator[Payload]:
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            members = [value[key] for key in value]
        else:
            members = list(value) if field.is_repeated else [value]
        for member in members:
            if isinstance(member, Message):  # a map may hold plain values
                yield from _payloads(member)


def to_json(workflow_id: str, histories: Sequence[WorkflowHistory]) -> str:
    """Returns histories as a JSON document that `from_json` reads."""
    executions = [history.to_json_dict() for history in histories]
    return json.dumps({"workflow_id": workflow_id, "executions": executions}, indent=1)


def from_json(text: str) -> list[WorkflowHistory]:
    """Reads histories: what `to_json` wrote, or one history as Temporal's own tools write it.

    Raises:
        RequestInvalid: It is neither.
    """
    try:
        document = json.loads(text)
        executions = document.get("executions", [document])
        workflow_id = str(document.get("workflow_id", "replayed"))
        return [WorkflowHistory.from_json(workflow_id, execution) for execution in executions]
    except (ValueError, TypeError, AttributeError, ParseError) as error:
        raise RequestInvalid(f"this is no saved history: {error}") from None
