"""An agent that sets no `max_tokens`: its calls get a bound of their own, and what is sent is what was reserved for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from temporalio.testing import ActivityEnvironment

from activities.governor import Governor
from activities.reserve import Reserve
from activities.run_state import RunState
from holdfast import transcript
from holdfast.actions.run_facts import RunReader
from holdfast.contracts.gate import ActionRef, ReserveReply, ReserveRequest
from holdfast.contracts.run import AdoptInputs
from holdfast.database.engine import transaction
from holdfast.ledger.service import Ledger
from holdfast.permits import private_key
from holdfast.timeline.stream import Publisher, connect_redis
from holdfast_verdict.canonical import JsonValue, canonical_bytes

from .captured import signing_key
from .harness import PERMIT_ALL, Rig, Run, Tenant, refund, say, task
from .test_gate import consent, pending
from .test_resets import GATE, reset_to_start


async def reserved(run: Run) -> list[tuple[int, int]]:
    """For each hold on a model call, the bound it was taken for, and the bound its estimate was made with."""
    holds = await run.holds("llm.call")
    return [
        (json.loads(hold["action"])["args"]["max_tokens"], json.loads(hold["estimate"])["output_tokens_bound"])
        for hold in holds
    ]


async def sent(rig: Rig) -> list[int]:
    return [one["max_tokens"] for one in await rig.model_calls()]


async def test_without_a_bound_a_call_gets_the_default_and_the_provider_is_sent_the_same(
    rig: Rig, tenant: Tenant
) -> None:
    run = await tenant.start(task(say("done")), max_tokens=None)
    assert await run.ended() == "succeeded"
    assert await reserved(run) == [(4_096, 4_096)]
    assert await sent(rig) == [4_096]


async def test_the_default_is_the_role_s_if_it_sets_one_and_the_agent_s_own_bound_comes_first(
    rig: Rig, tenant: Tenant
) -> None:
    for own, expected in ((None, 700), (500, 500)):
        run = await tenant.start(task(say("done")), max_tokens=own, role_default=700)
        assert await run.ended() == "succeeded"
        assert await reserved(run) == [(expected, expected)]
    assert await sent(rig) == [700, 500]


async def test_where_that_is_too_much_a_call_takes_half_of_what_the_caps_have_left(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(20_000_000)  # two cents: about 1,300 tokens of output at 15 dollars a million, less the input
    run = await tenant.start(task(say("done")), max_tokens=None, tools=())
    assert await run.ended() == "succeeded"
    [(asked, estimated)] = await reserved(run)
    assert asked == estimated
    assert 256 < asked < 700
    assert await sent(rig) == [asked]
    [hold] = await run.holds()
    assert hold["max_cost_nano_usd"] < 20_000_000


async def test_a_cap_that_counts_tokens_bounds_it_as_well(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(2_000, "tokens")
    run = await tenant.start(task(say("done")), max_tokens=None, tools=())
    assert await run.ended() == "succeeded"
    [(asked, _)] = await reserved(run)
    assert 256 < asked < 1_000
    assert await sent(rig) == [asked]


async def test_where_nothing_useful_is_left_it_is_denied_by_the_cap_that_refuses(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(400, "tokens")
    run = await tenant.start(task(say("never")), max_tokens=None, tools=())
    assert await run.ended() == "failed budget.cap_exceeded"
    assert await run.holds() == []
    assert await sent(rig) == []
    assert await run.codes() == ["admission.affordable", "budget.cap_exceeded"]  # once: waiting would not help


async def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_bound(rig: Rig, tenant: Tenant) -> None:
    """The governor dies between the decision and the workflow's record of it, and what the caps have left is another by then."""
    place = "reserve.after:llm.call"
    rig.points.park(place)
    run = await tenant.start(task(say("done")), max_tokens=None)
    await rig.points.until_parked(place)
    [(before, _)] = await reserved(run)
    await tenant.limit(30_000_000)
    await rig.kill("governor")
    rig.points.clear()
    await rig.all_up()
    assert await run.ended() == "succeeded"
    assert await run.states() == ["committed"]
    assert [asked for asked, _ in await reserved(run)] == [before] == await sent(rig)
    assert "hold.key_conflict" not in await run.codes()


@asynccontextmanager
async def governing(rig: Rig, run: Run) -> AsyncIterator[tuple[Governor, ActivityEnvironment]]:
    """A governor in this process, and the surroundings of an activity that the run's workflow has called."""
    redis = connect_redis(rig.stack.urls.redis)
    engine, key = rig.engine("governor"), private_key(signing_key(rig))
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_id=str(run.run_id))
    yield Governor(engine, Ledger(engine), RunReader(), Publisher(redis), key, 5_000, 8_000, 8_000, 8_000), environment
    await redis.aclose()


async def test_many_who_ask_for_one_try_at_once_get_one_answer_whatever_is_left_meanwhile(
    rig: Rig, tenant: Tenant
) -> None:
    """Attempts that overtake each other, as when a local activity is given up and tried again, while the cap goes up and down."""
    run = await tenant.admit(task(say("done")), max_tokens=None, tools=())

    async def move_the_cap() -> None:
        for amount in (90, 50, 80, 40, 70, 30, 60, 20):
            await tenant.limit(amount * 1_000_000)

    async with governing(rig, run) as (governor, environment):
        head = await environment.run(RunState(governor).adopt_inputs, AdoptInputs(head="", first=1, last=1))
        asked = ReserveRequest(step=1, try_number=1, action=ActionRef(kind="llm.call", head=head.head))

        async def ask() -> ReserveReply:
            return cast(ReserveReply, await environment.run(Reserve(governor).reserve, asked))

        moving = asyncio.create_task(move_the_cap())
        replies = await asyncio.gather(*(ask() for _ in range(24)))
        await moving
        replies.append(await ask())
    # The sweeper starts the run, perhaps already: then its hold is past `held`, and the answer is the same hold all the same.
    # If the cap fell between the look at it and the decision, the one answer is a refusal, and a new try would ask for less.
    refused = {(reply.verdict, reply.retryable) for reply in replies} == {("deny", True)}
    assert refused or {reply.verdict for reply in replies} <= {"allow", "replayed"}
    assert len({(reply.decision_id, reply.hold_id) for reply in replies}) == 1
    assert await run.ended(within_s=120) == "succeeded"
    assert await run.states() == ["committed"]


async def test_a_call_with_anything_but_text_is_denied_and_never_held_for_without_it(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.admit(task(say("done")), max_tokens=None)
    image: JsonValue = {
        "kind": "user",
        "text": [{"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}],
    }
    async with governing(rig, run) as (governor, environment):
        async with transaction(governor.engine, tenant.tenant_id) as connection:
            head = await transcript.write(connection, tenant.tenant_id, run.run_id, None, canonical_bytes(image))
        asked = ReserveRequest(step=99, try_number=1, action=ActionRef(kind="llm.call", head=head.hex()))
        reply = cast(ReserveReply, await environment.run(Reserve(governor).reserve, asked))
    assert (reply.verdict, reply.hold_id, reply.permit, reply.retryable) == ("deny", "", "", False)
    assert [reason.code for reason in reply.reasons] == ["content.unsupported"]
    assert await run.ended(within_s=120) == "succeeded"  # the sweeper starts it


async def test_a_reset_run_buys_nothing_again_though_the_bound_would_be_another_now(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.start(task(refund("BOUND-1"), say("done")), rules=(*PERMIT_ALL, GATE), max_tokens=None)
    approval_id = await pending(run)
    await tenant.limit(90_000_000)
    await reset_to_start(run)
    await consent(run, approval_id)
    assert await run.ended() == "succeeded"
    (first, _), (second, _) = await reserved(run)
    assert (first, 256 < second < 4_096) == (4_096, True)
    assert await sent(rig) == [first, second]
    assert "hold.key_conflict" not in await run.codes()


async def test_a_consent_holds_for_the_bound_that_the_approver_was_shown(rig: Rig, tenant: Tenant) -> None:
    rules = (*PERMIT_ALL, 'gate "ask": llm.call needs 1 of role("approver"), expires 1d')
    run = await tenant.start(task(say("done")), rules=rules, max_tokens=None)
    approval_id = await pending(run)
    await tenant.limit(90_000_000)  # from now on 4,096 tokens are more than half of what is left
    await consent(run, approval_id)
    assert await run.ended() == "succeeded"
    assert await reserved(run) == [(4_096, 4_096)]
    assert await sent(rig) == [4_096]


async def test_where_the_bytes_do_not_fit_a_public_tokenizer_counts(rig: Rig, tenant: Tenant) -> None:
    await tenant.limit(6_000, "tokens")
    words = "a word and another word " * 400  # 9,600 bytes, about 2,000 tokens
    run = await tenant.start(task(say("done"), words=words), wire="openai", tools=())
    assert await run.ended() == "succeeded"
    [hold] = await run.holds()
    estimate = json.loads(hold["estimate"])
    assert (estimate["counted_with"], estimate["output_tokens_bound"]) == ("o200k_base", 500)
    assert estimate["input_tokens_bound"] < 5_500
    [call] = await rig.model_calls()
    assert call["usage"]["input_tokens"] <= estimate["input_tokens_bound"]
    other = await tenant.start(task(say("never"), words=words), wire="anthropic", tools=())
    assert await other.ended() == "failed budget.cap_exceeded"  # nobody knows its tokenizer, so its bytes count
