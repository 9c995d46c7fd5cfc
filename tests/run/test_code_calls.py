"""Code that calls the run's tools: each call is an action of the run, decided, held, executed and settled like any other."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from holdfast.database.engine import transaction
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import CALLS, Scope
from holdfast_verdict.decide import Condition, Rule

from .harness import PERMIT_ALL, Record, Rig, Run, Step, Tenant, call, say, task, until

TOOLS: Final = ("code.exec", "mail.list", "mail.send", "payments.refund")
RULES: Final = (*PERMIT_ALL, Rule("compute", "permit", "code.exec"))
SEND: Final = """
from holdfast_guest import Refused, cite, emit, tool
def send(subject, to="jo@customer.example"):
    return tool("mail.send", to=[to], subject=subject, body="Dear customer, we have refunded your order.")
"""


def code(text: str, **arguments: Any) -> Step:
    """The model proposes code that may call tools, with much time on a busy machine."""
    return call("code.exec", code=SEND + text, **{"timeout_ms": 60_000, **arguments})


async def start(tenant: Tenant, *script: Step, rules: Any = RULES, **admission: Any) -> Run:
    return await tenant.start(task(*script, say("done")), rules=rules, tools=TOOLS, **admission)


async def told(run: Run) -> Record:
    """What the model was told of its code, the last time."""
    return [entry for entry in await run.transcript() if entry["kind"] == "tool_result"][-1]


async def test_every_call_of_a_loop_is_an_action_of_the_run(rig: Rig, tenant: Tenant) -> None:
    run = await start(tenant, code("for n in range(20): print(send(f'loop {n}'))"))
    assert await run.ended() == "succeeded"
    answer = await told(run)
    assert answer["ok"], answer
    assert "called mail.send: 20 done" in answer["content"]
    for number in range(20):
        assert len(rig.mails(f"loop {number}")) == 1
    [outer] = await run.holds("code.exec")
    holds = await run.holds(tool="mail.send")
    assert [hold["state"] for hold in holds] == ["committed"] * 20
    assert [hold["step"] for hold in holds] == list(range(outer["step"] + 1, outer["step"] + 21))
    decided = [each for each in await run.decisions() if each["step"] is not None and each["step"] > outer["step"]]
    assert [each["verdict"] for each in decided] == ["allow"] * 21  # and the model's last word
    settled = [each["data"] for each in await run.events("hold.settled") if each["data"]["tool"] == "mail.send"]
    assert len(settled) == 20
    called = [each["data"] for each in await run.events("code.called")]
    assert [each["request"] for each in called] == list(range(1, 21))
    assert [each["called_step"] for each in called] == [hold["step"] for hold in holds]
