"""The rules that Temporal's semantics force on a run, each tried by what it is there for. (Retries, leases and outages have files of
their own.)"""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import orjson
import pytest
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus

from holdfast.contracts import names
from holdfast.contracts.run import RunProgress, StartRun
from holdfast.database.engine import tenantless
from holdfast.histories import storing
from holdfast.ids import new_id

from .captured import is_encrypted, payloads, permit_of
from .harness import Rig, Tenant, call, mail, refund, say, task, until

PLATFORM: Final = UUID(int=0)


async def test_rule_1_a_second_path_supersedes_what_is_held_and_nothing_else(rig: Rig, tenant: Tenant) -> None:
    """The governor dies after reserve's effect and before Temporal knows of it; a steer comes first, when it is replayed."""
    pid = rig.pid("governor")
    rig.points.kill("reserve.after:tool.call")
    run = await tenant.start(task(mail("path 1"), say("as you wish")))
    await run.until_hold("held", tool="mail.send")
    await run.tell("steer", "send nothing")
    await rig.until_dead("governor", pid)
    assert await run.ended() == "succeeded"
    holds = [
        (hold["step"], hold["kind"], hold["state"], hold["superseded_at"] is not None) for hold in await run.holds()
    ]
    assert sorted(holds) == [
        (1, "llm.call", "committed", False),
        (2, "llm.call", "committed", False),
        (2, "tool.call", "voided", True),
    ], await run.story()
    assert not rig.mails("path 1")


async def test_rule_2_every_executing_activity_has_one_attempt(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "rate_limited")
    run = await tenant.start(task(mail("once"), say("done")))
    assert await run.ended() == "succeeded"
    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in (await run.history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert {one.activity_type.name for one in scheduled} == {names.EXECUTE_LLM_CALL, names.EXECUTE_TOOL_CALL}
    assert {one.retry_policy.maximum_attempts for one in scheduled} == {1}
    assert all(one.HasField("heartbeat_timeout") for one in scheduled)
    assert [one.activity_id for one in scheduled] == ["step-1-try-1", "step-2-try-1", "step-2-try-2", "step-3-try-1"]
    assert await run.states("tool.call") == ["voided", "committed"]


async def test_rule_3_settling_believes_no_executor_that_stores_rubbish(rig: Rig, tenant: Tenant) -> None:
    """A lying executor gets a lease, goes outside, and stores what nobody can read: its hold costs the worst case."""
    place = "redeem.before:llm.call"
    rig.points.park(place)
    run = await tenant.start(task(say("done")))
    await rig.points.until_parked(place)
    async with httpx.AsyncClient(base_url=rig.stack.urls.broker, trust_env=False, timeout=60) as broker:
        body = {
            "permit": await permit_of(rig, run, "step-1-try-1"),
            "workflow_id": str(run.run_id),
            "activity_type": names.EXECUTE_LLM_CALL,
        }
        lease = (await broker.post("/redeem", json=body)).json()["lease_token"]
    hold_id = (await run.holds())[0]["hold_id"]
    parameters = {"hold": hold_id, "lease": base64.b64decode(lease), "result": b"\xffrubbish"}
    async with tenantless(rig.engine("executor")) as connection:
        await connection.execute(text("SELECT begin_outward(:hold, :lease)"), parameters)
        stored = await connection.scalar(
            text("SELECT store_outcome(:hold, :lease, true, '', false, NULL, 'nothing', '', false, :result)"),
            parameters,
        )
    assert stored is True
    rig.points.release(place)
    assert await run.ended() == "succeeded"
    first, second = await run.holds()
    assert (first["state"], first["cost_nano_usd"]) == ("committed", first["max_cost_nano_usd"])
    assert (second["state"], second["try"]) == ("committed", 2)
    [event] = [event for event in await run.events("hold.settled") if event["data"]["try"] == 1]
    assert event["data"]["state"] == "committed"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [{"tenant": "acme", "role": "admin", "tenant_id": str(PLATFORM)}],
        ["rubbish", {"progress": None}],
        [StartRun(progress=RunProgress(step=7, head="00" * 32))],
    ],
    ids=["nothing", "a forged tenant", "too much", "progress of no run"],
)
async def test_rule_5_a_workflow_started_by_hand_is_refused_and_recorded(rig: Rig, arguments: list[Any]) -> None:
    for workflow_id in (str(new_id()), f"by-hand-{secrets.token_hex(4)}"):
        handle = await rig.client.start_workflow(
            names.AGENT_RUN,
            args=arguments,
            id=workflow_id,
            task_queue=names.GOVERNOR_QUEUE,
            execution_timeout=timedelta(seconds=20),
        )
        result = await handle.result()
        assert (result["status"], result["code"], result["steps"]) == ("failed", "run.unknown", 0)
        recorded = await rig.rows(
            "SELECT verdict, reason_codes, part_a FROM decisions WHERE tenant_id = $1 AND kind = 'run.start'", PLATFORM
        )
        [row] = [row for row in recorded if workflow_id in row["part_a"].decode()]
        assert (row["verdict"], row["reason_codes"]) == ("deny", ["run.unknown"])


async def test_rule_5_what_a_forged_input_says_about_an_admitted_run_is_not_believed(rig: Rig, tenant: Tenant) -> None:
    """Whoever reaches Temporal can start an admitted run before the sweeper does; what it is stays what its row says."""
    async with rig.nothing_swept():
        run = await tenant.admit(task(mail("forged"), say("done")))
        await rig.client.start_workflow(
            names.AGENT_RUN,
            {"tenant": "other", "progress": {"step": -5}, "role": "admin"},
            id=str(run.run_id),
            task_queue=names.GOVERNOR_QUEUE,
        )
    assert await run.ended() == "succeeded"
    assert {hold["tenant_id"] for hold in await run.holds()} == {tenant.tenant_id}
    for adopted in (0, 1):
        async with rig.nothing_swept():
            lost = await tenant.admit(task(mail("forged progress"), say("done")))
            await rig.client.start_workflow(
                names.AGENT_RUN,
                StartRun(progress=RunProgress(step=3, head="ab" * 32, inputs_adopted=adopted, inputs_seen=1)),
                id=str(lost.run_id),
                task_queue=names.GOVERNOR_QUEUE,
            )
        assert await lost.ended() == ("failed transcript.broken", "failed action.malformed")[adopted]
        assert not rig.mails("forged progress")
        assert not await lost.holds()


async def test_rule_6_a_run_that_temporal_was_never_told_of_starts_all_the_same(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.admit(task(mail("outbox"), say("done")))
    assert await run.ended() == "succeeded"
    assert len(rig.mails("outbox")) == 1


async def test_rule_8_history_tells_nothing_to_whoever_lacks_the_key(rig: Rig, tenant: Tenant) -> None:
    said = {
        "prompt": "the customer's diagnosis is secret",
        "subject": "your confidential claim",
        "order": "SECRET-ORDER-77",
        "answer": "I have told nobody",
        "steer": "whisper it",
        "tool": "made.up.tool.name",
        "refusal": "not an argument of it",
        "argument": "their_diagnosis",
    }
    rig.fault("mail", "gate")
    run = await tenant.start(
        task(
            mail(said["subject"]),
            refund(said["order"]),
            {"tool": said["tool"], "arguments": {"x": said["order"]}},
            call("mail.list", their_diagnosis="x"),
            say(said["answer"]),
            words=said["prompt"],
        )
    )
    await rig.until_held()
    permit = await permit_of(rig, run, "step-2-try-1")
    await run.tell("followup", said["steer"])
    rig.world.faults.release()
    assert await run.ended() == "succeeded"
    history = (await run.history()).events
    raw = b"".join(event.SerializeToString() for event in history)
    for what, words in {**said, "permit": permit, "payload of a permit": permit[:40]}.items():
        assert words.encode() not in raw, what
    clear = []
    for event in history:
        for payload in payloads(event):
            if not is_encrypted(payload):
                clear.append(payload.data)
                continue
            [opened] = await rig.client.data_converter.payload_codec.decode([payload])  # type: ignore[union-attr]  # it has one
            for what, words in said.items():
                # even whoever has the key finds references and digests there, and of a call its tool's name
                assert what == "tool" or words.encode() not in opened.data, f"{what} in event {event.event_id}"
    # what the SDK itself writes in clear: search attributes, and which local activity a marker is of
    allowed = {tenant.slug, "desk", "ada", "pending", "running", "succeeded", "waiting"}
    for data in clear:
        value = orjson.loads(data)
        is_marker = isinstance(value, dict) and value["activity_type"] in names.LOCAL_ACTIVITIES
        is_attribute = isinstance(value, str) and (value in allowed or value.startswith("agent-"))
        assert is_marker or is_attribute, data

    async def digested() -> bool:
        return (await run.row())["history_digest"] is not None

    await until(digested, what="the digest of the history")
    sealed = await storing.seal(rig.client, run.run_id)
    assert sealed is not None
    assert (await run.row())["history_digest"] == sealed.digest
    assert sealed.executions == 1
    [recorded] = [one for one in await run.decisions() if one["kind"] == "run.history"]
    assert sealed.digest.hex() in recorded["part_a"].decode()


async def test_an_unknown_outcome_counts_as_the_worst_case_when_nobody_finds_out(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "answer_lost")
    asking = await tenant.start(task(mail("never known"), say("done")))
    await asking.until_status("waiting")
    await rig.think_badly({"kind": "status", "status": 500}, {"kind": "rubbish", "form": "bytes"})
    run = await tenant.start(task(say("done")))
    assert await run.ended() == "succeeded"
    assert await run.states() == ["unknown", "unknown", "committed"]
    await rig.database.execute(
        "UPDATE holds SET unknown_at = now() - interval '2 days' WHERE tenant_id = $1", tenant.tenant_id
    )
    assert await asking.ended() == "succeeded"
    assert (await asking.handle.describe()).status == WorkflowExecutionStatus.COMPLETED

    async def settled() -> bool:
        return "unknown" not in await run.states()

    await until(settled, what="the settlement of what nobody knows")
    for hold in (await run.holds())[:2]:
        assert (hold["state"], hold["cost_nano_usd"]) == ("committed", hold["max_cost_nano_usd"])
    assert len(rig.mails("never known")) == 1
    told = [entry["content"] for entry in await asking.transcript() if entry["kind"] == "tool_result"]
    assert told == ["nobody found out in time whether this happened"]
