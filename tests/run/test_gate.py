"""The gate waits for a person's record. A signal wakes the run and releases nothing by itself."""

from __future__ import annotations

import asyncio
import secrets
from uuid import UUID

from holdfast.approvals.service import decide
from holdfast.approvals.tokens import issue_token
from holdfast.contracts import names
from holdfast.contracts.run import ApprovalSignal
from holdfast.database.engine import transaction
from holdfast.runs import signals
from holdfast_verdict.canonical import JsonValue

from .harness import PERMIT_ALL, Rig, Run, Tenant, mail, refund, say, task, until

RULES = (*PERMIT_ALL, 'gate "consent": payments.refund needs 1 of role("approver"), expires 1d')
MAIL_RULES = (*PERMIT_ALL, 'gate "consent": mail.send needs 1 of role("approver"), expires 1d')
SHORT_RULES = (*PERMIT_ALL, 'gate "consent": payments.refund needs 1 of role("approver"), expires 2s')


async def pending(run: Run) -> UUID:
    """Waits for the approval that the run asks for."""
    found: list[UUID] = []

    async def asked() -> bool:
        rows = await run.rig.rows("SELECT approval_id FROM approvals WHERE run_id = $1 AND verdict IS NULL", run.run_id)
        found.extend(row["approval_id"] for row in rows)
        return bool(found)

    await until(asked, what="a question for consent")
    return found[0]


async def wake(run: Run, approval_id: UUID, token: str = "") -> None:
    await run.handle.signal(names.SIGNAL_APPROVAL, ApprovalSignal(approval_id=str(approval_id), token=token))


async def looked(run: Run, times: int) -> None:
    """Waits until the run has looked at its approval so many times, by its history."""
    async with asyncio.timeout(60):
        while True:
            events = (await run.history()).events
            markers = [event for event in events if event.HasField("marker_recorded_event_attributes")]
            if sum(b"verify_approval" in event.SerializeToString() for event in markers) >= times:
                return
            await asyncio.sleep(0.05)


async def token_of(run: Run, approval_id: UUID) -> str:
    tenant = run.tenant
    async with transaction(run.rig.engine("api"), tenant.tenant_id) as connection:
        token, _ = await issue_token(connection, tenant.bob, approval_id, "approved")
    return token


async def consent(
    run: Run, approval_id: UUID, *, deny: bool = False, edited: dict[str, JsonValue] | None = None, deliver: bool = True
) -> None:
    tenant, engine = run.tenant, run.rig.engine("api")
    await decide(engine, tenant.bob, approval_id, "denied" if deny else "approved", edited_arguments=edited)
    if deliver:
        await signals.deliver_approval(run.rig.client, engine, tenant.tenant_id, approval_id)


async def test_a_signal_releases_nothing_and_a_token_works_once(rig: Rig, tenant: Tenant) -> None:
    async def decided(approval_id: UUID) -> object:
        return await rig.value("SELECT verdict FROM approvals WHERE approval_id = $1", approval_id)

    first = await tenant.start(task(refund("GATE-1"), refund("GATE-2"), say("done")), rules=RULES)
    other = await tenant.start(task(refund("GATE-3")), rules=RULES)
    approval, others = await pending(first), await pending(other)
    forged = [
        "",
        secrets.token_urlsafe(32),
        "x" * 10_000,
        "'; DROP TABLE approvals; --",
        await token_of(other, others),  # a good token, of another approval
    ]
    for token in forged:
        await wake(first, approval, token)
    await wake(
        first, others, forged[-1]
    )  # the other's approval with its own token, sent to a run that does not wait for it
    await looked(first, len(forged))
    assert await first.status() == "waiting"
    assert await decided(approval) is None
    assert not rig.refunds("GATE-1")
    assert not rig.refunds("GATE-3")
    token = await token_of(first, approval)
    await wake(first, approval, token)
    await wake(first, approval, token)
    await until(lambda: decided(approval), what="consent")
    second = await pending(first)
    await wake(first, second, token)  # used, and of the earlier approval
    await looked(first, len(forged) + 2)
    assert len(rig.refunds("GATE-1")) == 1
    assert not rig.refunds("GATE-2")
    await consent(first, second)
    await consent(other, others)
    assert [await first.ended(), await other.ended()] == ["succeeded", "succeeded"]
    assert [len(rig.refunds(f"GATE-{n}")) for n in (1, 2, 3)] == [1, 1, 1]


async def test_edited_arguments_are_what_is_executed(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.start(task(refund("EDIT-1", 9_999), say("done")), rules=RULES)
    edited: dict[str, JsonValue] = {"order_id": "EDIT-1", "amount_usd_cents": 500, "reason": "a part of it"}
    await consent(run, await pending(run), edited=edited)
    assert await run.ended() == "succeeded"
    assert [(one["amount_usd_cents"], one["reason"]) for one in rig.refunds("EDIT-1")] == [(500, "a part of it")]


async def test_denied_or_expired_nothing_happens_and_the_model_is_told(rig: Rig, tenant: Tenant) -> None:
    denied = await tenant.start(task(refund("DENY-1"), say("a pity")), rules=RULES)
    expired = await tenant.start(task(refund("DENY-2"), say("a pity")), rules=SHORT_RULES)
    await consent(denied, await pending(denied), deny=True)
    assert [await denied.ended(), await expired.ended()] == ["succeeded", "succeeded"]
    assert not rig.refunds("DENY-1")
    assert not rig.refunds("DENY-2")
    for run, code in ((denied, "approval.denied"), (expired, "approval.expired")):
        assert code in await run.codes()
        told = [entry for entry in await run.transcript() if entry["kind"] == "tool_result"]
        assert str(told[0]["content"]).startswith(f"not done: {code}")
        assert told[0]["stop_reason"] == code, "so that what it quotes is never taken for the tool's output"


async def test_one_consent_is_good_for_one_effect_however_many_tries_it_takes(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "rate_limited", times=2)
    run = await tenant.start(task(mail("consented"), mail("consented"), say("done")), rules=MAIL_RULES)
    await consent(run, await pending(run))
    second = await pending(run)
    assert len(rig.mails("consented")) == 1
    await consent(run, second, deny=True)
    assert await run.ended() == "succeeded"
    assert await run.states("tool.call") == ["voided", "voided", "committed"]
    assert len(rig.mails("consented")) == 1


async def test_a_decision_reaches_the_run_even_if_its_signal_was_lost(rig: Rig, tenant: Tenant) -> None:
    run = await tenant.start(task(refund("LOST-1"), say("done")), rules=RULES)
    await consent(run, await pending(run), deliver=False)
    assert await run.ended() == "succeeded"
    assert len(rig.refunds("LOST-1")) == 1


async def test_consent_to_a_paused_run_lets_nothing_go_on_until_it_is_resumed(rig: Rig, tenant: Tenant) -> None:
    """A pause holds between the tries of a step as well: whoever consents may not know why somebody paused the run."""
    run = await tenant.start(task(refund("PAUSED-1"), say("done")), rules=RULES)
    approval_id = await pending(run)
    await run.tell("pause")
    await consent(run, approval_id)
    await run.until_status("paused")
    assert not await run.holds(tool="payments.refund")
    await run.tell("resume")
    assert await run.ended() == "succeeded"
    assert len(rig.refunds("PAUSED-1")) == 1


async def test_a_run_that_is_paused_while_a_try_fails_asks_for_no_other(rig: Rig, tenant: Tenant) -> None:
    await rig.think_badly({"kind": "gate"}, {"kind": "status", "status": 503})
    run = await tenant.start(task(say("done")))
    await rig.until_thinking()
    await run.tell("pause")
    await rig.kill("executor-1")  # its call is lost, and would be tried again
    await run.until_status("paused")
    assert len(await run.holds("llm.call")) == 1
    await run.tell("resume")
    await rig.let_think()
    assert await run.ended() == "succeeded"
