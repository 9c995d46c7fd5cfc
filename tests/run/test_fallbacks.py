"""A provider that fails is left for the next target of the model's route, with a hold of that target's own."""

from __future__ import annotations

import json
from typing import Any

from holdfast.pricing.prices import price_of
from holdfast.runs.definition import ModelTarget

from .harness import PERMIT_ALL, Rig, Run, Tenant, say, task
from .test_gate import consent, pending

DEARER = ModelTarget(wire="anthropic", name="claude-opus-4-5")
OTHER_WIRE = ModelTarget(wire="openai", name="gpt-4o-mini")
FIRST = "claude-sonnet-4-5"


async def held_for(run: Run) -> list[str]:
    """The models that holds were taken for; each hold is as large as its own model's prices make it."""
    models = []
    for hold in await run.holds("llm.call"):
        args, estimate = json.loads(hold["action"])["args"], json.loads(hold["estimate"])
        price = price_of(args["wire"], args["model"], hold["created_at"])
        assert estimate["prices_used"] == price.to_json()
        models.append(args["model"])
    return models


async def asked(rig: Rig) -> list[tuple[str, str]]:
    return [(one["wire"], one["model"]) for one in await rig.model_calls()]


def failing(times: int) -> list[dict[str, Any]]:
    return [{"kind": "status", "status": 503}] * times


async def test_each_failure_takes_the_next_target_with_a_hold_and_a_credential_of_its_own(
    rig: Rig, tenant: Tenant
) -> None:
    await rig.think_badly(*failing(2))
    run = await tenant.start(task(say("at last")), fallbacks=[DEARER, OTHER_WIRE])
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, DEARER.name, OTHER_WIRE.name]
    assert await asked(rig) == [("anthropic", FIRST), ("anthropic", DEARER.name), ("openai", OTHER_WIRE.name)]
    first, dearer, other = (hold["max_cost_nano_usd"] for hold in await run.holds("llm.call"))
    assert dearer > first > other
    assert await run.states() == ["unknown", "unknown", "committed"]


async def test_after_the_last_target_comes_the_first_again(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly(*failing(2))
    run = await tenant.start(task(say("at last")), fallbacks=[OTHER_WIRE])
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, OTHER_WIRE.name, FIRST]


async def test_each_step_begins_with_the_first_target(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly(*failing(1))
    run = await tenant.start(task({"tool": "mail.list", "arguments": {}}, say("done")), fallbacks=[OTHER_WIRE])
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, OTHER_WIRE.name, FIRST]


async def test_what_a_provider_refuses_for_good_is_asked_of_nobody_else(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "status", "status": 400})
    run = await tenant.start(task(say("never")), fallbacks=[OTHER_WIRE])
    assert await run.ended() == "failed provider.refused"
    assert await held_for(run) == [FIRST]


async def test_a_try_that_never_reached_the_provider_stays_with_its_target(rig: Rig, tenant: Tenant) -> None:
    place = "execute.before_outward:llm.call"
    rig.points.park(place)
    run = await tenant.start(task(say("done")), fallbacks=[OTHER_WIRE])
    await rig.points.until_parked(place)
    await rig.kill("executor-1")
    rig.points.clear()
    await rig.all_up()
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, FIRST]


async def test_rules_are_asked_about_the_fallback_as_well(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly(*failing(1))
    dear = f'forbid llm.call where args.model == "{DEARER.name}" as "not-dear"'
    run = await tenant.start(task(say("never")), rules=(*PERMIT_ALL, dear), fallbacks=[DEARER])
    assert await run.ended() == "failed policy.forbidden"
    assert await held_for(run) == [FIRST]
    assert len(await asked(rig)) == 1


async def test_a_fallback_that_the_caps_cannot_afford_is_refused_and_nothing_is_overspent(
    rig: Rig, tenant: Tenant
) -> None:
    await rig.think_badly(*failing(1))
    # admission asks for one call on the dearest target; that fits, but not beside the first one, whose outcome is unknown
    run = await tenant.start(task(say("never")), fallbacks=[DEARER], run_cap_nano_usd=45_000_000, max_tries=2)
    assert await run.ended() == "failed budget.cap_exceeded"
    assert await held_for(run) == [FIRST]
    assert len(await asked(rig)) == 1


async def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_target(rig: Rig, tenant: Tenant) -> None:
    place = "reserve.after:llm.call"
    await rig.think_badly(*failing(1))
    run = await tenant.admit(task(say("done")), fallbacks=[OTHER_WIRE])
    rig.points.park("settle.after:llm.call")
    await run.start()
    await rig.points.until_parked("settle.after:llm.call")
    rig.points.park(place)
    rig.points.release("settle.after:llm.call")
    await rig.points.until_parked(place)
    await rig.kill("governor")
    rig.points.clear()
    await rig.all_up()
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, OTHER_WIRE.name]
    assert "hold.key_conflict" not in await run.codes()


async def test_a_provider_s_wish_to_wait_does_not_keep_a_fallback_waiting(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "status", "status": 429, "retry_after": "3000"})
    run = await tenant.start(task(say("at once")), fallbacks=[OTHER_WIRE])
    assert await run.ended() == "succeeded"  # within seconds, not in an hour
    assert await held_for(run) == [FIRST, OTHER_WIRE.name]


async def test_a_call_that_was_consented_to_stays_with_its_target(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "status", "status": 429, "retry_after": "1"})
    gate = 'gate "ask": llm.call needs 1 of role("approver"), expires 1d'
    run = await tenant.start(task(say("done")), rules=(*PERMIT_ALL, gate), fallbacks=[OTHER_WIRE])
    await consent(run, await pending(run))
    assert await run.ended() == "succeeded"
    assert await held_for(run) == [FIRST, FIRST]
