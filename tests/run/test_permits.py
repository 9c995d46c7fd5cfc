"""LAW 1: nothing executes without a permit that is valid, unexpired, unused, and for exactly these arguments."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Interceptor, Worker

from activities.llm_call import LlmCall
from activities.tool_call import ToolCall
from holdfast import permits
from holdfast.contracts import names
from holdfast.permits import Permit
from holdfast.timeline.stream import Publisher, connect_redis
from workers import workflow_code

from .captured import permit_of, signing_key
from .harness import Rig, Tenant, mail, say, task, until
from .rogue import Rogue, Wish

TOOL: Final = names.EXECUTE_TOOL_CALL
LLM: Final = names.EXECUTE_LLM_CALL
ROGUE_QUEUE: Final = "rogue"


def altered(token: str) -> str:
    """The same permit with one bit of its signature changed."""
    swap = "A" if token[-10] != "A" else "B"
    return token[:-10] + swap + token[-9:]


def opened(rig: Rig, token: str) -> Permit:
    key = permits.private_key(signing_key(rig)).public_key()
    return permits.verify(token, key, now_ms=0)


def signed(rig: Rig, permit: Permit, **changes: Any) -> str:
    """A permit that the governor's key has signed, with other contents."""
    return permits.sign(replace(permit, **changes), permits.private_key(signing_key(rig)))


@activity.defn
async def send_mail() -> None:
    raise AssertionError("it was executed")


async def play_rogue(
    rig: Rig, how: str, what: str, queue: str, permit: str, interceptors: Sequence[Interceptor] = (), bound_s: int = 60
) -> str:
    """Runs workflow code of a stranger on a worker of the stranger's own; returns with which code it failed."""
    async with Worker(
        rig.client,
        task_queue=ROGUE_QUEUE,
        workflows=[Rogue],
        activities=[send_mail],
        interceptors=interceptors,
        workflow_runner=workflow_code.checking_runner(),
    ):
        try:
            await rig.client.execute_workflow(
                "Rogue",
                Wish(how, what, queue, permit, bound_s),
                id=f"rogue-{secrets.token_hex(8)}",
                task_queue=ROGUE_QUEUE,
            )
        except WorkflowFailureError as failure:
            cause: BaseException | None = failure
            while cause is not None and not isinstance(cause, ApplicationError):
                cause = cause.__cause__
            return cause.type or "" if cause is not None else "no reason"
    return "done"


async def test_a_permit_is_worth_nothing_to_anybody_else(rig: Rig, tenant: Tenant) -> None:
    used_run = await tenant.start(task(mail("permit used"), say("done")))
    assert await used_run.ended() == "succeeded"
    used = await permit_of(rig, used_run, "step-2-try-1")
    rig.points.park("settle.before:tool.call")
    run = await tenant.start(task(mail("permit fresh"), say("done")))
    await rig.points.until_parked("settle.before:tool.call")
    fresh = await permit_of(rig, run, "step-2-try-1")
    before = await rig.refusals()
    attempts = {
        "none at all": ("none", TOOL, names.TOOL_QUEUE),
        "empty": ("", TOOL, names.TOOL_QUEUE),
        "rubbish": ("rubbish", TOOL, names.TOOL_QUEUE),
        "altered": (altered(used), TOOL, names.TOOL_QUEUE),
        "used, of another run": (used, TOOL, names.TOOL_QUEUE),
        "of a run that is under way": (fresh, TOOL, names.TOOL_QUEUE),
        "expired": (signed(rig, opened(rig, used), expires_at_ms=int(time.time() * 1000) - 1), TOOL, names.TOOL_QUEUE),
        "for a model": (used, LLM, names.LLM_QUEUE),
    }
    for what, (permit, body, queue) in attempts.items():
        assert await play_rogue(rig, "activity", body, queue, permit) == "permit.invalid", what
    assert await rig.refusals() == before + len(attempts)
    rig.points.release("settle.before:tool.call")
    assert await run.ended() == "succeeded"
    assert (len(rig.mails("permit used")), len(rig.mails("permit fresh"))) == (1, 1)


async def test_a_stolen_permit_does_not_open_the_broker_twice_nor_for_anything_else(rig: Rig, tenant: Tenant) -> None:
    rig.points.park("redeem.before:tool.call")
    run = await tenant.start(task(mail("permit stolen"), say("done")))
    await rig.points.until_parked("redeem.before:tool.call")
    fresh = await permit_of(rig, run, "step-2-try-1")
    other = await tenant.admit(task(say("idle")))
    permit = opened(rig, fresh)
    before = await rig.refusals()
    refused = {
        "altered": altered(fresh),
        "other arguments": signed(rig, permit, digest="00" * 32),
        "another run": signed(rig, permit, run_id=str(other.run_id)),
        "another tenant": signed(rig, permit, tenant_id="00000000-0000-0000-0000-000000000000"),
        "another kind": signed(rig, permit, kind="llm.call"),
        "expired": signed(rig, permit, expires_at_ms=1),
    }
    async with httpx.AsyncClient(base_url=rig.stack.urls.broker, trust_env=False, timeout=60) as broker:

        async def redeem(token: str, activity: str = TOOL) -> httpx.Response:
            body = {"permit": token, "workflow_id": str(run.run_id), "activity_type": activity}
            return await broker.post("/redeem", json=body)

        for what, token in refused.items():
            answer = await redeem(token)
            assert answer.status_code == 403, f"{what}: {answer.text}"
            assert "credential" not in answer.json()
        assert (await redeem(fresh, LLM)).json()["code"] == "permit.invalid"
        # all of them have read that it is held before the first one takes it
        async with rig.database.acquire() as connection, connection.transaction():
            await connection.execute("SELECT 1 FROM holds WHERE hold_id = $1 FOR UPDATE", UUID(permit.hold_id))
            redeeming = [asyncio.create_task(redeem(fresh)) for _ in range(8)]

            async def one_waits() -> bool:
                return bool(
                    await rig.value(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-broker' AND wait_event_type = 'Lock'"
                    )
                )

            await until(one_waits, what="a redemption, with the others behind it")
        together = await asyncio.gather(*redeeming)
        assert sorted(answer.status_code for answer in together) == [200] + [403] * 7
    assert await rig.refusals() == before + len(refused) + 1 + 7
    # whoever stole it has the lease now, and does nothing with it: the run's own try is refused, and it tries anew
    rig.points.release("redeem.before:tool.call")
    assert await run.ended() == "succeeded"
    assert await run.states("tool.call") == ["voided", "committed"]
    assert len(rig.mails("permit stolen")) == 1
    await other.start()  # admitted, so it may run; a sweeper may have started it by now


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("activity", "send_mail"),
        ("activity", TOOL),  # without a permit
        ("activity with retries", TOOL),
        ("local activity", "send_mail"),
        ("child", names.AGENT_RUN),
    ],
)
async def test_workflow_code_cannot_schedule_what_has_no_permit(rig: Rig, how: str, what: str) -> None:
    permit = "some permit" if how == "activity with retries" else "none"
    before = await rig.refusals()
    code = await play_rogue(rig, how, what, names.TOOL_QUEUE, permit, workflow_code.interceptors())
    assert code == "permit.invalid"
    assert await rig.refusals() == before, "it was never scheduled, so the broker was not asked"


async def test_the_gates_activities_are_on_no_task_queue(rig: Rig) -> None:
    for queue in (names.GOVERNOR_QUEUE, names.TOOL_QUEUE):
        assert await play_rogue(rig, "activity", names.RESERVE, queue, "x", bound_s=3) != "done"


async def test_a_worker_without_the_interceptor_can_do_nothing(rig: Rig, tenant: Tenant) -> None:
    redis = connect_redis(rig.stack.urls.redis)
    await rig.stack.stop_child("executor-1")
    bodies = (
        (names.LLM_QUEUE, LlmCall(Publisher(redis)).execute_llm_call),
        (names.TOOL_QUEUE, ToolCall(1024**3).execute_tool_call),
    )
    workers = [Worker(rig.client, task_queue=queue, activities=[body]) for queue, body in bodies]
    async with workers[0], workers[1]:
        run = await tenant.start(task(mail("bare worker"), say("done")))
        await run.until_hold("voided")
    rig.restart("executor-1")
    assert await run.ended() == "succeeded"
    await redis.aclose()
    states = await run.states("llm.call")
    assert states[0] == "voided"
    assert len(rig.mails("bare worker")) == 1


async def test_an_executor_has_nothing_to_act_with(rig: Rig, tenant: Tenant) -> None:
    environment = Path(f"/proc/{rig.pid('executor-1')}/environ").read_bytes()
    secrets_of_others = {
        "signing key": rig.stack.secrets.permit_key_file.read_bytes().strip(),
        "its file": bytes(rig.stack.secrets.permit_key_file),
        "vault key": rig.stack.secrets.vault_key_file.read_bytes().strip(),
        "its file ": bytes(rig.stack.secrets.vault_key_file),
        "provider's key": b"sk-simulated",
        "provider's keys": b"API_KEY",
        "payments' key": rig.world.api_key.encode(),
        "the governor's database role": b"holdfast_governor",
        "the broker's database role": b"holdfast_broker",
        "the sweeper's database role": b"holdfast_sweeper",
        "the superuser": rig.stack.secrets.database_passwords["postgres"].encode(),
    }
    for what, secret in secrets_of_others.items():
        assert secret not in environment, what
    tables = await rig.rows(
        """SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'
           AND relkind IN ('r', 'v', 'S') AND (has_table_privilege('holdfast_executor', c.oid, 'SELECT, INSERT, UPDATE, DELETE')
           OR has_any_column_privilege('holdfast_executor', c.oid, 'SELECT, INSERT, UPDATE'))"""
    )
    assert tables == []
    functions = await rig.rows(
        """SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'public'
           AND has_function_privilege('holdfast_executor', p.oid, 'EXECUTE') ORDER BY 1"""
    )
    assert [row["proname"] for row in functions] == [
        "answer_by_hold",
        "ask_by_hold",
        "begin_outward",
        "begin_outward_all",
        "end_attempt",
        "read_approval_by_hold",
        "store_outcome",
        "store_outcome_all",
        "take_deliveries",
        "vote_by_hold",
    ]
