"""Code whose calls would make a run's history too long: it is refused, and may call again after the run continued as new."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

from .harness import Rig, Run, call, say, task
from .rigs import running_rig
from .test_code_calls import RULES, SEND, TOOLS

EVENTS_MAX = 150
CALLS = 20
SENDS = """
for n in range({count}):
    try:
        send(f"{name} {{n}}")
    except Refused as refused:
        print("refused", n, refused.code)
"""


@pytest.fixture(scope="module")
async def short() -> AsyncIterator[Rig]:
    """A stack whose governor allows short histories."""
    async with running_rig(environment={"HOLDFAST_HISTORY_EVENTS_MAX": str(EVENTS_MAX)}) as rig:
        yield rig


async def executions(rig: Rig, run: Run) -> list[WorkflowHistory]:
    """Returns the histories of a run's executions, the first one first."""
    found = [await run.handle.fetch_history()]
    while before := found[0].events[0].workflow_execution_started_event_attributes.continued_execution_run_id:
        found.insert(0, await rig.client.get_workflow_handle(str(run.run_id), run_id=before).fetch_history())
    return found


async def test_code_is_refused_calls_near_the_end_of_a_history_and_not_in_the_next(short: Rig) -> None:
    tenant = await short.tenant()
    steps = [
        call("code.exec", code=SEND + SENDS.format(name=name, count=count), timeout_ms=60_000)
        for name, count in (("long", CALLS), ("next", 2))
    ]
    run = await tenant.start(task(*steps, say("done")), rules=RULES, tools=TOOLS)
    assert await run.ended() == "succeeded"
    first, second = [entry["content"] for entry in await run.transcript() if entry["kind"] == "tool_result"]

    done = len([number for number in range(CALLS) if short.mails(f"long {number}")])
    assert 0 < done < CALLS
    assert [line for line in first.splitlines() if line.startswith("refused")] == [
        f"refused {number} code.calls_exhausted" for number in range(done, CALLS)
    ], first
    assert "refused" not in second
    assert [len(short.mails(f"next {number}")) for number in range(2)] == [1, 1]
    # what was refused was never decided on, and costs nothing
    assert await run.states(tool="mail.send") == ["committed"] * (done + 2)

    histories = await executions(short, run)
    assert len(histories) > 1, "it continued as new"
    kind = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    accepted = [event.event_id for event in histories[0].events if event.event_type == kind]
    assert len(accepted) == CALLS
    assert all(event_id > EVENTS_MAX for event_id in accepted[done:]), "no earlier than it has to be"
    await run.settled()
    await short.audit()
    await short.cross_check()
