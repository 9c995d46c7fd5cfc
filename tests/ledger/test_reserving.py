"""Reserving: keys, caps, limits, approvals and records, one caller at a time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

import asyncpg
import orjson
import pytest

from holdfast.database.engine import transaction
from holdfast.errors import RunUnknown
from holdfast.ids import new_id
from holdfast.ledger.types import Event, FactsChanged, FactVersions, HoldView, Scope
from holdfast.timeline import events
from holdfast_verdict.decide import Verdict

from .world import Database, Tenant, approval_request, new_tenant

# Keys --------------------------------------------------------------------------------------------------------------------


async def test_the_same_key_with_the_same_arguments_gets_the_same_answer(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 15)
    run = await tenant.run()
    first = await tenant.reserve(run)
    again = await tenant.reserve(run)
    assert first.verdict == "allow"
    assert replace(again, timeline_seq=0, lease_ms=0) == replace(first, timeline_seq=0, lease_ms=0)
    assert await tenant.balances(cap) == (10, 0, 0)
    refused = await tenant.reserve(run, 2)
    assert (refused.verdict, refused.code) == ("deny", "budget.cap_exceeded")
    await tenant.cap("tenant", 1_000)
    again = await tenant.reserve(run, 2)
    assert (again.verdict, again.decision_id, again.message) == ("deny", refused.decision_id, refused.message)
    assert (await tenant.reserve(run, 2, 2)).verdict == "allow", "a new try is a new question"


async def test_a_key_that_was_executed_is_answered_with_its_hold_and_never_bought_again(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    hold = await tenant.held(run)
    token = (await tenant.redeem(hold)).lease_token
    assert (await tenant.reserve(run)).verdict == "replayed"
    await tenant.begin(hold.hold_id, token)
    await tenant.store(hold.hold_id, token)
    await tenant.settle(hold.hold_id, "committed", {"nano_usd": 3})
    replayed = await tenant.reserve(run)
    assert (replayed.verdict, replayed.hold_id) == ("replayed", hold.hold_id)
    assert await tenant.balances(cap) == (0, 3, 0)


async def test_other_arguments_take_the_place_of_a_hold_that_nobody_redeemed(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 15)
    run = await tenant.run()
    hold = await tenant.held(run)
    other = await tenant.reserve(run, argument="y", amounts={"nano_usd": 15})
    assert (other.verdict, other.superseded) == ("allow", hold.hold_id), (
        "what the old hold took is free for the new one"
    )
    assert (await tenant.hold(hold.hold_id)).state == "voided"
    assert await tenant.balances(cap) == (15, 0, 0)
    assert (await tenant.reserve(run, argument="y")).hold_id == other.hold_id


async def test_other_arguments_after_redemption_are_refused_with_an_alarm(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    hold = await tenant.held(run)
    token = (await tenant.redeem(hold)).lease_token
    for alarms, state in enumerate(("executing", "executed", "committed"), start=1):
        if state == "executed":
            await tenant.begin(hold.hold_id, token)
            await tenant.store(hold.hold_id, token)
        if state == "committed":
            await tenant.settle(hold.hold_id, "committed", {"nano_usd": 3})
        refused = await tenant.reserve(run, argument="y")
        assert (refused.verdict, refused.code, refused.hold_id) == ("deny", "hold.key_conflict", None)
        assert len(await tenant.alarms(run)) == alarms
        assert (await tenant.hold(hold.hold_id)).state == state
    assert await tenant.balances(cap) == (0, 3, 0)
    recorded = "SELECT count(*) FROM decisions WHERE run_id = $1 AND 'hold.key_conflict' = ANY(reason_codes)"
    assert await tenant.database.value(recorded, run) == 3
    assert (await tenant.reserve(run)).verdict == "replayed", "the key's own answer stands"


async def test_a_decision_on_facts_that_have_changed_is_not_taken(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    stale = await tenant.reservation(run, 2)
    await tenant.reserve(run, 1)
    with pytest.raises(FactsChanged):
        await tenant.ledger.reserve(stale)
    other_role = await tenant.reservation(run, 2)
    with pytest.raises(FactsChanged):
        await tenant.ledger.reserve(replace(other_role, versions=FactVersions(other_role.versions.history, 2)))
    assert await tenant.database.value("SELECT count(*) FROM decisions WHERE run_id = $1", run) == 1


async def test_superseding_on_facts_that_have_changed_leaves_the_hold_alone(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    hold = await tenant.held(run)
    stale = await tenant.reservation(run, argument="y")
    await tenant.reserve(run, 2)
    with pytest.raises(FactsChanged):
        await tenant.ledger.reserve(stale)
    assert (await tenant.hold(hold.hold_id)).state == "held"


async def test_an_ended_run_gets_nothing_and_no_run_at_all_even_less(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    await tenant.database.execute("UPDATE runs SET ended_at = now(), status = 'terminated' WHERE run_id = $1", run)
    refused = await tenant.reserve(run)
    assert (refused.verdict, refused.code) == ("deny", "run.ended")
    nobodys = await tenant.reservation(run)
    with pytest.raises(RunUnknown):
        await tenant.ledger.reserve(replace(nobodys, key=replace(nobodys.key, run_id=new_id())))
    stranger = await new_tenant(tenant.database)
    foreign = await tenant.reservation(await tenant.run())
    with pytest.raises(RunUnknown):
        await tenant.ledger.reserve(replace(foreign, key=replace(foreign.key, tenant_id=stranger.tenant_id)))
    assert await tenant.balances(cap) == (0, 0, 0)


# Caps --------------------------------------------------------------------------------------------------------------------


async def test_a_hold_is_granted_on_all_its_caps_or_on_none(tenant: Tenant) -> None:
    caps = [
        await tenant.cap("tenant", 100),
        await tenant.cap("user", 9),
        await tenant.cap("role", 100, unit="tokens"),
        await tenant.cap("project", 100, unit="calls"),
    ]
    amounts = {"nano_usd": 10, "tokens": 5, "calls": 1}
    refused = await tenant.reserve(await tenant.run(), amounts=amounts)
    assert (refused.verdict, refused.retryable) == ("deny", False)
    assert "the cap on user" in refused.message
    assert [await tenant.balances(cap) for cap in caps] == [(0, 0, 0)] * 4
    await tenant.cap("user", 10)
    assert (await tenant.reserve(await tenant.run(), amounts=amounts)).verdict == "allow"
    assert [await tenant.balances(cap) for cap in caps] == [(10, 0, 0), (10, 0, 0), (5, 0, 0), (1, 0, 0)]
    full = await tenant.reserve(await tenant.run(), amounts=amounts)
    assert (full.verdict, full.retryable) == ("deny", True), "outstanding holds alone stand in the way"


async def test_nothing_is_unlimited_by_omission(tenant: Tenant) -> None:
    await tenant.cap("user", 1_000)
    refused = await tenant.reserve(await tenant.run())
    assert (refused.verdict, refused.code) == ("deny", "budget.no_cap")
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 0, "calls": 1})).verdict == "allow"
    cap = await tenant.cap("tenant", unlimited=True)
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 900})).verdict == "allow"
    assert await tenant.balances(cap) == (900, 0, 0), "unlimited, and counted all the same"


async def test_caps_of_other_tenants_projects_and_users_do_not_count(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    await tenant.cap("user", 0, scope_id=str(new_id()))
    await tenant.cap("role", 0, scope_id="other")
    stranger = await new_tenant(tenant.database)
    await stranger.cap("tenant", 0)
    assert (await tenant.reserve(await tenant.run())).verdict == "allow"


async def test_a_lowered_limit_stops_new_holds_and_never_running_ones(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 100)
    run = await tenant.run()
    holds = [await tenant.held(run, step, amounts={"nano_usd": 40}) for step in (1, 2)]
    await tenant.cap("tenant", 30)
    ceiling = "SELECT ceiling FROM caps WHERE cap_id = $1"
    assert await tenant.database.value(ceiling, cap) == 80
    assert (await tenant.reserve(run, 3, amounts={"nano_usd": 1})).verdict == "deny"
    await tenant.executed(holds[0])
    await tenant.settle(holds[0].hold_id, "committed", {"nano_usd": 10})
    assert await tenant.database.value(ceiling, cap) == 50, "it shrinks as holds settle"
    assert (await tenant.reserve(run, 4, amounts={"nano_usd": 1})).verdict == "deny"
    await tenant.settle(holds[1].hold_id, "voided")
    assert await tenant.database.value(ceiling, cap) == 30
    assert (await tenant.reserve(run, 5, amounts={"nano_usd": 20})).verdict == "allow"
    assert await tenant.balances(cap) == (20, 10, 0)


async def test_what_a_provider_bills_over_the_hold_takes_free_headroom_and_then_is_debt(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 100)
    run = await tenant.run()
    first, second = [await tenant.held(run, step, amounts={"nano_usd": 40}) for step in (1, 2)]
    await tenant.executed(first)
    await tenant.settle(first.hold_id, "committed", {"nano_usd": 90})
    assert await tenant.balances(cap) == (40, 60, 30), "20 were free, 30 did not fit"
    assert (await tenant.reserve(run, 3, amounts={"nano_usd": 1})).verdict == "deny"
    await tenant.settle(second.hold_id, "voided")
    assert await tenant.balances(cap) == (0, 60, 30)
    assert (await tenant.reserve(run, 4, amounts={"nano_usd": 11})).verdict == "deny", "debt counts against the cap"
    assert (await tenant.reserve(run, 5, amounts={"nano_usd": 10})).verdict == "allow"
    await tenant.cap("tenant", 85)
    assert await tenant.balances(cap) == (10, 75, 15), "what fits is paid off whenever the limit is set"
    await tenant.cap("tenant", 200)
    assert await tenant.balances(cap) == (10, 90, 0)


async def test_a_refusal_says_which_cap_how_much_is_left_and_how_much_it_would_take(tenant: Tenant) -> None:
    await tenant.cap("tenant", 10**9)
    await tenant.cap("project", 12, unit="tokens")
    run = await tenant.run()
    refused = await tenant.reserve(run, amounts={"nano_usd": 5, "tokens": 13})
    assert refused.message == "the cap on project has 12 tokens left of 12 tokens, and this may take 13 tokens"
    legs = await _legs_of(tenant, refused.decision_id)
    assert {leg["unit"]: (leg["limit"], leg["amount"]) for leg in legs} == {
        "nano_usd": ("1000000000", "5"),
        "tokens": ("12", "13"),
    }


async def test_a_run_with_a_budget_of_its_own_is_held_to_that_alone(tenant: Tenant) -> None:
    run = await tenant.run()
    tenant_cap = await tenant.cap("tenant", 0)
    run_cap = await tenant.cap("run", 100, scope_id=str(run))
    scopes = (*tenant.scopes, Scope("run", str(run)))
    assert (await tenant.reserve(run, 1, scopes=scopes)).verdict == "deny"
    assert (await tenant.reserve(run, 2, scopes=scopes, funded=True)).verdict == "allow"
    assert (await tenant.reserve(run, 3, scopes=scopes, funded=True, amounts={"nano_usd": 91})).verdict == "deny"
    assert await tenant.balances(tenant_cap) == (0, 0, 0)
    assert await tenant.balances(run_cap) == (10, 0, 0)
    unfunded = await tenant.run()
    refused = await tenant.reserve(unfunded, 1, scopes=(*tenant.scopes, Scope("run", str(unfunded))), funded=True)
    assert refused.code == "budget.no_cap"


async def test_amounts_beyond_all_bounds_are_refused_and_overflow_nothing(tenant: Tenant) -> None:
    cap = await tenant.cap("tenant", 2**63 - 1)
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 2**63 - 1})).verdict == "allow"
    assert (await tenant.reserve(await tenant.run(), amounts={"nano_usd": 2**63 - 1})).verdict == "deny"
    with pytest.raises(asyncpg.CheckViolationError):
        await tenant.reserve(await tenant.run(), amounts={"nano_usd": -1})
    assert await tenant.balances(cap) == (2**63 - 1, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        "reserved = reserved + 91",
        "committed = committed + 91",
        "reserved = reserved + 1, limit_amount = 10, ceiling = 10",
        "reserved = reserved + 1, debt = debt + 90",
        "reserved = -1",
        "ceiling = limit_amount - 1",
        "limit_amount = 5, ceiling = 5",
    ],
)
async def test_not_even_a_faulty_program_overspends(tenant: Tenant, change: str) -> None:
    cap = await tenant.cap("tenant", 100)
    await tenant.held()
    with pytest.raises(asyncpg.CheckViolationError, match=r"caps_|exceed"):
        await tenant.database.execute(f"UPDATE caps SET {change} WHERE cap_id = $1", cap)
    assert await tenant.balances(cap) == (10, 0, 0)


async def test_a_faulty_program_overdraws_no_lowered_cap(tenant: Tenant) -> None:
    """Under the ceiling that the running holds need, there is room that is nobody's."""
    cap = await tenant.cap("tenant", 100)
    run = await tenant.run()
    holds = [await tenant.held(run, step, amounts={"nano_usd": 50}) for step in (1, 2)]
    await tenant.cap("tenant", 60)

    async def overdraw() -> None:
        async with tenant.database.superuser.acquire() as connection, connection.transaction():
            # a settlement that forgets to lower the ceiling, then a grant that looks at nothing else
            for reserved in (50, 61):
                await connection.execute("UPDATE caps SET reserved = $1 WHERE cap_id = $2", reserved, cap)

    with pytest.raises(asyncpg.CheckViolationError, match="exceed its limit of 60"):
        await overdraw()
    await tenant.settle(holds[0].hold_id, "voided")
    assert await tenant.balances(cap) == (50, 0, 0)


# Approvals ---------------------------------------------------------------------------------------------------------------

ASK = Verdict("needs_approval", "approval.required", "ask", "gate")


async def test_an_approval_is_used_once(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    request = approval_request(tenant)
    asked = await tenant.reserve(run, evaluated=ASK, approval=request)
    await tenant.consent(request)
    assert (asked.verdict, asked.approval_id, asked.hold_id) == ("needs_approval", request.approval_id, None)
    assert (await tenant.reserve(run, 1, 2, consumes=request.approval_id)).verdict == "allow"
    again = await tenant.reserve(run, 1, 3, consumes=request.approval_id)
    assert (again.verdict, again.code) == ("deny", "approval.consumed")
    assert (await tenant.reserve(run, 1, 4, consumes=new_id())).verdict == "deny", "and one that is not there, never"


async def _used_approval(tenant: Tenant, *, idempotent: bool = True) -> tuple[UUID, UUID, HoldView]:
    """An approval, the run it was asked in, and the hold of the try that used it."""
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    request = approval_request(tenant)
    await tenant.reserve(run, evaluated=ASK, approval=request)
    await tenant.consent(request)
    used = await tenant.reserve(run, 1, 2, consumes=request.approval_id, idempotent=idempotent)
    assert used.hold_id is not None
    return request.approval_id, run, await tenant.hold(used.hold_id)


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(
    "state", ["held", "executing", "outward", "executed", "committed", "voided", "expired", "unknown"]
)
async def test_an_approval_serves_again_only_if_its_use_came_to_nothing_or_may_be_repeated(
    tenant: Tenant, state: str, idempotent: bool
) -> None:
    approval, run, hold = await _used_approval(tenant, idempotent=idempotent)
    if state in ("executing", "outward", "unknown"):
        token = (await tenant.redeem(hold)).lease_token
        if state != "executing":
            await tenant.begin(hold.hold_id, token)
    if state in ("executed", "committed"):
        await tenant.executed(hold)
    if state in ("committed", "voided", "expired", "unknown"):
        await tenant.settle(hold.hold_id, state)
    again = await tenant.reserve(run, 1, 3, consumes=approval, idempotent=idempotent)
    serves = state in ("voided", "expired") or (state == "unknown" and idempotent)
    assert again.code == ("policy.permitted" if serves else "approval.consumed")


async def test_an_approval_serves_its_own_step_of_its_own_run(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run, other = await tenant.runs(2)
    request = approval_request(tenant)
    await tenant.reserve(run, evaluated=ASK, approval=request)
    await tenant.consent(request)
    for where, step in ((other, 1), (run, 2)):
        assert (await tenant.reserve(where, step, consumes=request.approval_id)).code == "approval.consumed"
    assert (await tenant.reserve(run, 1, 2, consumes=request.approval_id)).verdict == "allow"


async def test_a_refusal_by_a_cap_does_not_use_an_approval_up(tenant: Tenant) -> None:
    await tenant.cap("tenant", 5)
    run = await tenant.run()
    request = approval_request(tenant)
    await tenant.reserve(run, evaluated=ASK, approval=request)
    await tenant.consent(request)
    assert (await tenant.reserve(run, 1, 2, consumes=request.approval_id)).code == "budget.cap_exceeded"
    await tenant.cap("tenant", 1_000)
    assert (await tenant.reserve(run, 1, 3, consumes=request.approval_id)).verdict == "allow"


async def test_a_superseded_question_is_withdrawn(tenant: Tenant) -> None:
    await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    request = approval_request(tenant)
    await tenant.reserve(run, evaluated=ASK, approval=request)
    assert (await tenant.reserve(run, argument="y")).verdict == "allow"
    expired = "SELECT expires_at <= now() FROM approvals WHERE approval_id = $1"
    assert await tenant.database.value(expired, request.approval_id)


# Records -----------------------------------------------------------------------------------------------------------------


async def _legs_of(tenant: Tenant, decision_id: object) -> list[dict[str, str]]:
    part_b = await tenant.database.value("SELECT part_b FROM decisions WHERE decision_id = $1", decision_id)
    legs: list[dict[str, str]] = orjson.loads(part_b)["legs"]
    return legs


async def test_every_verdict_leaves_a_record_that_hashes_to_its_promise(tenant: Tenant) -> None:
    await tenant.cap("tenant", 15)
    run = await tenant.run()
    for asked in (
        await tenant.reserve(run, 1),
        await tenant.reserve(run, 2),
        await tenant.reserve(run, 3, message="no"),
        await tenant.reserve(run, 4, evaluated=ASK, approval=approval_request(tenant)),
    ):
        row = (
            await tenant.database.fetch(
                "SELECT verdict, part_a, part_b, record_hash FROM decisions WHERE decision_id = $1", asked.decision_id
            )
        )[0]
        assert row["verdict"] == asked.verdict
        leaf = b"\0" + hashlib.sha256(row["part_a"]).digest() + hashlib.sha256(row["part_b"]).digest()
        assert row["record_hash"] == asked.record_hash == hashlib.sha256(leaf).digest()
    made = "SELECT count(*) FROM timeline_events WHERE run_id = $1 AND type = 'decision.made'"
    assert await tenant.database.value(made, run) == 4


async def test_a_decision_whose_event_cannot_be_written_is_not_taken(tenant: Tenant, database: Database) -> None:
    """LAW 2: hold, record and event are one transaction."""
    cap = await tenant.cap("tenant", 1_000)
    run = await tenant.run()
    await database.execute(
        """INSERT INTO timeline_events (tenant_id, run_id, seq, event_id, channel, type, data)
           VALUES ($1, $2, 1, $3, 'x', 'in.the.way', '{}')""",
        tenant.tenant_id,
        run,
        new_id(),
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await tenant.reserve(run)
    assert await tenant.balances(cap) == (0, 0, 0)
    for table in ("decisions", "holds"):
        assert await database.value(f"SELECT count(*) FROM {table} WHERE run_id = $1", run) == 0


@pytest.mark.parametrize("message", ["nul \x00 inside", "\ud800 alone", "\\u0000 spelled out", "日本 🤝 \x01\x1f\x7f"])
async def test_no_text_that_a_model_writes_stops_a_decision(tenant: Tenant, message: str) -> None:
    run = await tenant.run()
    reservation = await tenant.reservation(run)
    denied = await tenant.ledger.reserve(replace(reservation, evaluated=Verdict("deny", "policy.test", message)))
    assert denied.verdict == "deny"
    data = await tenant.database.value("SELECT data->>'message' FROM timeline_events WHERE run_id = $1", run)
    assert data == message.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


async def test_events_of_no_run_are_an_error(tenant: Tenant) -> None:
    event = Event("x", "y", {})
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        assert await events.append(connection, tenant.tenant_id, new_id(), []) == 0
        with pytest.raises(RunUnknown):
            await events.append(connection, tenant.tenant_id, new_id(), [event])
