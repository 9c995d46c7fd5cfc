"""Code that calls the run's tools: each call is an action of the run, decided, held, executed and settled like any other."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.service import RPCError

from holdfast.contracts import names
from holdfast.contracts.gate import CodeCall
from holdfast.ids import new_id
from holdfast.ledger.executions import Executions
from holdfast.ledger.types import CALLS, Scope
from holdfast.timeline.stream import connect_redis, stream_key

from .harness import PERMIT_ALL, Record, Rig, Run, Step, Tenant, call, mail, say, task, until

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "let-code-call-tools.md"
TOOLS: Final = ("code.exec", "mail.list", "mail.send", "payments.refund")
RULES: Final = (*PERMIT_ALL, 'permit code.exec as "compute"')
SEND: Final = """
from holdfast_guest import Refused, cite, emit, tool
def send(subject, to="jo@customer.example"):
    return tool("mail.send", to=[to], subject=subject, body="Dear customer, we have refunded your order.")
"""


def code(text: str, **arguments: Any) -> Step:
    """The model proposes code that may call tools, with much time on a busy machine."""
    return call("code.exec", code=SEND + text, **{"timeout_ms": 60_000, **arguments})


def staying() -> str:
    """Defines `stay()`: the code stands there while a test kills who runs it, and not as long again when it is run anew."""
    return f"""
import time
def stay():
    time.sleep(max(3, {time.time() + 12} - time.time()))
"""


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
    assert len([entry for entry in await run.transcript() if entry["kind"] == "tool_result"]) == 1, (
        "code reads the answers"
    )
    called = [each["data"] for each in await run.events("code.called")]
    assert [each["request"] for each in called] == list(range(1, 21))
    assert [each["called_step"] for each in called] == [hold["step"] for hold in holds]


async def test_a_denied_call_is_an_exception_and_the_code_goes_on(rig: Rig, tenant: Tenant) -> None:
    deny = 'forbid mail.send where args.subject == "middle 1" as "nobody-there"'
    text = """
for n in range(3):
    try:
        send(f"middle {n}")
        print("sent", n)
    except Refused as refused:
        print("refused", n, refused.code, bool(refused.message))
for name, arguments in (("no.such_tool", {}), ("code.exec", {"code": "print(1)"}), ("mail.send", {"to": 7})):
    try:
        tool(name, **arguments)
    except Refused as refused:
        print(name, refused.code)
"""
    run = await start(tenant, code(text), rules=(*RULES, deny))
    assert await run.ended() == "succeeded"
    answer = await told(run)
    printed = ["sent 0", "refused 1 policy.forbidden True", "sent 2"]
    printed += ["no.such_tool action.unknown", "code.exec action.unknown", "mail.send action.malformed"]
    assert "\n".join(printed) in answer["content"], answer
    assert [len(rig.mails(f"middle {number}")) for number in range(3)] == [1, 0, 1]
    assert len(await run.holds(tool="mail.send")) == 2
    assert "called mail.send: 2 done, 2 refused" in answer["content"]


async def test_a_script_of_a_shell_calls_tools_in_a_loop(rig: Rig, tenant: Tenant) -> None:
    text = """
for n in 0 1 2; do
    if said=$(holdfast-guest tool mail.send to:='["jo@customer.example"]' subject="shell $n" body='We have refunded it.' 2>&1); then
        echo "sent $n"
    else
        echo "refused $n ${said%%:*}"
    fi
done
holdfast-guest tool no.such_tool 2>&1 | cut -d: -f1
holdfast-guest emit progress --json '{"done": 3}' && holdfast-guest cite orders.csv rows:=3
"""
    await looped_in(rig, tenant, "shell", text)


async def test_a_program_of_node_calls_tools_in_a_loop(rig: Rig, tenant: Tenant) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed here")
    text = """
const { tool, emit, cite, Refused } = require("holdfast_guest");
const send = (n) => tool("mail.send", { to: ["jo@customer.example"], subject: `node ${n}`, body: "We have refunded it." });
for (let n = 0; n < 3; n++) {
  try {
    await send(n);
    console.log("sent", n);
  } catch (error) {
    console.log("refused", n, error.code);
  }
}
await tool("no.such_tool").catch((error) => console.log(error instanceof Refused && error.code));
await emit("progress", { done: 3 });
await cite("orders.csv", { rows: 3 });
"""
    await looped_in(rig, tenant, "node", text)


async def looped_in(rig: Rig, tenant: Tenant, language: str, text: str) -> None:
    """Runs code that sends three mails, of which the policy forbids the second, and says what became of each."""
    deny = f'forbid mail.send where args.subject == "{language} 1" as "not-that"'
    step = call("code.exec", code=text, language=language, timeout_ms=60_000)
    run = await start(tenant, step, rules=(*RULES, deny))
    assert await run.ended() == "succeeded"
    answer = await told(run)
    assert "sent 0\nrefused 1 policy.forbidden\nsent 2\naction.unknown\n" in answer["content"], answer
    assert "called mail.send: 2 done, 1 refused" in answer["content"]
    assert [len(rig.mails(f"{language} {number}")) for number in range(3)] == [1, 0, 1]
    holds = await run.holds(tool="mail.send")
    assert [hold["state"] for hold in holds] == ["committed"] * 2
    [emitted] = await run.events("code.emitted")
    assert (emitted["data"]["channel"], emitted["data"]["data"]) == ("progress", {"done": 3})
    [cited] = await run.events("citation.added")
    assert (cited["data"]["source"], cited["data"]["details"]) == ("orders.csv", {"rows": 3})


async def test_what_needs_a_consent_is_refused_and_nobody_is_asked(rig: Rig, tenant: Tenant) -> None:
    gate = 'gate "four-eyes": payments.refund needs 1 of role("approver"), expires 1d'
    text = """
try:
    tool("payments.refund", order_id="CODE-1", amount_usd_cents=5, reason="it arrived broken")
except Refused as refused:
    print(refused.code, refused.message)
"""
    run = await start(tenant, code(text), rules=(*RULES, gate))
    assert await run.ended() == "succeeded"
    content = (await told(run))["content"]
    assert "approval.not_in_code" in content
    assert "the model has to propose this call itself" in content
    assert await rig.value("SELECT count(*) FROM approvals WHERE run_id = $1", run.run_id) == 0
    assert rig.refunds("CODE-1") == []


async def test_nobody_knows_where_values_come_from_that_code_passes(rig: Rig, tenant: Tenant) -> None:
    """The model may send to whom the user has named; code may pass anything on as that."""
    policy = """role ROLE {
  permit llm.call
  permit code.exec
  permit mail.send where args.to only from user
}
"""
    words = "Write to jo@customer.example"
    passed = "try:\n    send('by code')\nexcept Refused as refused:\n    print('not by code:', refused.code)"
    script = task(code(passed), mail("by the model"), say("done"), words=words)
    run = await tenant.start(script, tools=TOOLS, policy=policy)
    assert await run.ended() == "succeeded"
    answer = next(entry for entry in await run.transcript() if entry["kind"] == "tool_result")
    assert "not by code: facts.missing" in answer["content"], answer
    assert len(rig.mails("by the model")) == 1
    assert rig.mails("by code") == []


async def test_what_code_has_read_marks_the_run(rig: Rig, tenant: Tenant) -> None:
    policy = """role ROLE { permit llm.call permit code.exec permit tools }
forbid mail.send when run has untrusted code "mail.after_reading"
"""
    text = "try:\n    send('after reading')\nexcept Refused as refused:\n    print(refused.code)"
    run = await tenant.start(task(code(text), say("done")), tools=TOOLS, policy=policy)
    assert await run.ended() == "succeeded"
    assert "mail.after_reading" in (await told(run))["content"]
    assert rig.mails("after reading") == []


async def test_a_budget_that_runs_out_in_the_middle_refuses_the_rest(rig: Rig, tenant: Tenant) -> None:
    text = "for n in range(5):\n  try: send(f'budget {n}')\n  except Refused as refused: print(n, refused.code)"
    rig.points.park("reserve.before:code.exec")
    run = await start(tenant, code(text))
    await rig.points.until_parked("reserve.before:code.exec")
    # three calls more: the model's call and the code have one each
    await tenant.limit(5, CALLS, scope=Scope("run", str(run.run_id)))
    rig.points.release("reserve.before:code.exec")
    assert await run.ended() == "failed budget.cap_exceeded"  # the model's last word is one call too many, too
    content = (await told(run))["content"]
    assert "3 budget.cap_exceeded\n4 budget.cap_exceeded" in content
    assert [len(rig.mails(f"budget {number}")) for number in range(5)] == [1, 1, 1, 0, 0]


async def test_a_killed_host_repeats_no_call(rig: Rig, tenant: Tenant) -> None:
    rig.points.clear()
    text = """
import os, time
print(send("killed 1"))
print(send("killed 2"))
emit("progress", {"sent": 2})
stay()
send("killed 3")
print("through")
"""
    run = await start(tenant, code(staying() + text))

    async def said() -> bool:
        return bool(await run.events("code.emitted"))

    await until(said, what="two calls of the code")
    await rig.kill("executor-1")
    assert await run.ended() == "succeeded"
    answer = await told(run)
    assert "through" in answer["content"]
    for number in (1, 2, 3):
        assert len(rig.mails(f"killed {number}")) == 1
    assert await run.states("code.exec") == ["unknown", "committed"]
    assert await run.states(tool="mail.send") == ["committed"] * 3
    outer = (await run.holds("code.exec"))[0]["step"]
    assert [hold["step"] for hold in await run.holds(tool="mail.send")] == [outer + 1, outer + 2, outer + 3]
    assert len(await run.events("code.emitted")) == 1, "the same is not said twice"


async def test_a_call_whose_outcome_is_lost_waits_for_a_person(rig: Rig, tenant: Tenant) -> None:
    """The host that runs the code and its tool dies between the mail's sending and the news of it (LAW 4)."""
    rig.points.kill("outcome.before:tool.call")
    pid = rig.pid("executor-1")
    run = await start(tenant, code("send('lost')\nprint('and after')"))
    await rig.until_dead("executor-1", pid)
    hold_id = await run.until_hold("unknown", tool="mail.send")
    await run.until_status("waiting")
    await run.resolve(hold_id, happened=True)
    assert await run.ended() == "succeeded"
    assert "and after" in (await told(run))["content"]
    assert len(rig.mails("lost")) == 1
    assert await run.states(tool="mail.send") == ["committed"]


async def test_code_that_asks_for_something_else_the_second_time_is_refused(rig: Rig, tenant: Tenant) -> None:
    text = """
import time
now = time.time_ns()
try:
    send(f"differs {now}")
except Refused as refused:
    print("refused:", refused.code)
emit("sent", now)
stay()
"""
    run = await start(tenant, code(staying() + text))

    async def said() -> bool:
        return bool(await run.events("code.emitted"))

    await until(said, what="the first call")
    await rig.kill("executor-1")
    assert await run.ended() == "succeeded"
    assert "refused: hold.key_conflict" in (await told(run))["content"]
    assert len(await run.holds(tool="mail.send")) == 1
    assert len(await run.events("decision.alarm")) == 1


async def test_a_cancelled_run_ends_its_code_and_what_was_sent_is_settled(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    text = "n = 0\nwhile True:\n  try: send(f'cancelled code {n}')\n  except Refused: pass\n  n += 1"
    run = await start(tenant, code(text))
    await rig.until_held()
    await run.cancel()
    rig.world.faults.release()
    assert await run.ended() == "cancelled run.cancelled"
    holds = await run.holds(tool="mail.send")
    assert {hold["state"] for hold in holds} <= {"committed", "voided"}
    sent = [number for number in range(len(holds) + 1) if rig.mails(f"cancelled code {number}")]
    assert len(sent) == len([hold for hold in holds if hold["state"] == "committed"])
    [outer] = await run.holds("code.exec")
    assert (outer["state"], outer["error_code"]) == ("committed", "run.cancelled"), (
        "it was ended, and not by its own clock"
    )


async def test_what_code_prints_is_live_while_it_waits_for_a_call(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await start(tenant, code("print('half-way', flush=True)\nsend('live')\nprint('through')"))
    redis = connect_redis(rig.stack.urls.redis)

    async def heard() -> bool:
        entries: Any = await redis.xrange(stream_key(tenant.tenant_id, run.run_id))  # Any: texts are decoded here
        return any(each.get("t") == "code.delta" and "half-way" in each["d"] for _, each in entries)

    try:
        await until(heard, what="what the code has printed")
        await rig.until_held()
        assert await run.states("code.exec") == ["executing"]
    finally:
        rig.world.faults.release()
        await redis.aclose()
    assert await run.ended() == "succeeded"
    assert "through" in (await told(run))["content"]


async def test_what_code_says_and_cites_is_in_the_timeline(tenant: Tenant) -> None:
    text = """
emit("progress", {"done": [1, "two", None]})
print(cite("orders/c-7", rows=3))
for wrong in ("x" * 20_000, 2 ** 80):
    try:
        emit("progress", wrong)
    except Refused as refused:
        print(refused.code)
"""
    run = await start(tenant, code(text))
    assert await run.ended() == "succeeded"
    [outer] = await run.holds("code.exec")
    of = {"step": outer["step"], "try": 1}
    [emitted] = await run.events("code.emitted")
    assert emitted["data"] == {**of, "request": 1, "channel": "progress", "data": {"done": [1, "two", None]}}
    [cited] = await run.events("citation.added")
    assert cited["data"] == {**of, "request": 2, "source": "orders/c-7", "details": {"rows": 3}}
    assert "None\nrequest.too_large\nrequest.invalid" in (await told(run))["content"]
    assert len(await run.holds()) == 3, "saying something costs no action"


async def test_code_that_floods_its_run_is_bounded(tenant: Tenant) -> None:
    text = """
codes = []
for n in range(300):
    try:
        emit("flood", n)
    except Refused as refused:
        codes.append(refused.code)
print(len(codes), set(codes))
"""
    run = await start(tenant, code(text))
    assert await run.ended() == "succeeded"
    assert "100 {'code.calls_exhausted'}" in (await told(run))["content"]
    assert len(await run.events("code.emitted")) == 200


async def test_calls_count_as_steps_and_the_last_step_is_the_models(rig: Rig, tenant: Tenant) -> None:
    text = "for n in range(9):\n  try: send(f'steps of code {n}')\n  except Refused as refused: print(n, refused.code)"
    run = await start(tenant, code(text), max_steps=6)
    assert await run.ended() == "succeeded"
    assert "3 run.max_steps" in (await told(run))["content"]
    assert len(await run.holds(tool="mail.send")) == 3
    assert (await run.holds("llm.call"))[-1]["step"] == 6


async def test_nobody_else_makes_calls_in_the_name_of_code(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    run = await start(tenant, code("send('mine')"))
    await rig.until_held()
    other = await start(tenant, say("done"))
    assert await other.ended() == "succeeded"
    [hold] = await run.holds("code.exec")
    executions = Executions(rig.engine("executor"))
    ask = {"number": 2, "kind": "tool", "name": "mail.send", "arguments": b"{}", "told": "{}"}
    # without the lease of that very code, whoever has an executor's rights writes nothing down and reads nothing
    [model, *_] = await run.holds("llm.call")
    for hold_id in (hold["hold_id"], model["hold_id"], new_id()):
        assert await executions.ask(hold_id, b"another run's token", **ask) == ("lease_lost", 0)  # type: ignore[arg-type]  # see above
        assert await executions.read_answer(hold_id, b"another run's token", 1) is None
    # whoever reaches Temporal can wake the run up, and no more
    for handle, hold_id in ((run.handle, new_id()), (other.handle, hold["hold_id"])):
        with pytest.raises((WorkflowUpdateFailedError, RPCError)):
            await handle.execute_update(names.UPDATE_CODE_CALL, CodeCall(hold_id=str(hold_id), number=2))
    forged = asyncio.create_task(
        run.handle.execute_update(names.UPDATE_CODE_CALL, CodeCall(hold_id=str(hold["hold_id"]), number=7))
    )
    rig.world.faults.release()
    assert await run.ended() == "succeeded"
    await asyncio.wait([forged])
    assert len(await run.holds(tool="mail.send")) == 1
    assert await rig.value("SELECT count(*) FROM code_requests WHERE run_id = $1", run.run_id) == 1


@pytest.mark.parametrize(("language", "fence"), [("python", "python"), ("shell", "sh"), ("node", "javascript")])
async def test_the_code_of_the_page_does_what_the_page_says(
    rig: Rig, tenant: Tenant, language: str, fence: str
) -> None:
    if language == "node" and shutil.which("node") is None:
        pytest.skip("Node is not installed here")
    [text] = re.findall(rf"```{fence}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    small = 'permit payments.refund where args.amount_usd_cents <= 5000 as "refund"'
    step = call("code.exec", code=text, language=language, timeout_ms=60_000)
    run = await start(tenant, step, rules=(RULES[0], RULES[-1], small))
    assert await run.ended() == "succeeded"
    content = (await told(run))["content"]
    first, third = (rig.refunds(order)[-1]["refund_id"] for order in ("A-1001", "A-1003"))
    printed = [f"A-1001 refunded {first}", "A-1002 not refunded: policy.not_permitted", f"A-1003 refunded {third}"]
    assert "\n".join(printed) in content
    assert [each["data"]["data"]["done"] for each in await run.events("code.emitted")] == [1, 2, 3]
    assert len(await run.events("citation.added")) == 1


@pytest.mark.parametrize("place", ["reserve.after", "settle.before", "settle.after"])
async def test_a_killed_governor_repeats_no_call(rig: Rig, tenant: Tenant, place: str) -> None:
    name = f"{place}:tool.call"
    pid = rig.pid("governor")
    rig.points.kill(name)
    run = await start(tenant, code(f"for n in range(3): send(f'{place} {{n}}')"))
    await rig.until_dead("governor", pid)
    assert await run.ended() == "succeeded"
    assert (await told(run))["ok"], await run.story()
    for number in range(3):
        assert len(rig.mails(f"{place} {number}")) == 1
    assert [state for state in await run.states(tool="mail.send") if state != "superseded"] == ["committed"] * 3


async def test_a_paused_run_makes_no_call_until_it_goes_on(rig: Rig, tenant: Tenant) -> None:
    rig.fault("refunds", "gate")
    first = 'tool("payments.refund", order_id="PAUSED-CODE", amount_usd_cents=5, reason="it arrived broken")'
    run = await start(tenant, code(f"{first}\nsend('paused code')"))
    await rig.until_held()
    await run.tell("pause")
    rig.world.faults.release()
    await run.until_status("paused")
    assert rig.mails("paused code") == []
    await run.tell("resume")
    assert await run.ended() == "succeeded"
    assert len(rig.mails("paused code")) == 1


async def test_a_steer_refuses_what_code_has_not_yet_called(rig: Rig, tenant: Tenant) -> None:
    rig.fault("mail", "gate")
    text = "for n in range(3):\n  try: send(f'steered code {n}')\n  except Refused as refused: print(n, refused.code)"
    run = await start(tenant, code(text))
    await rig.until_held()
    await run.tell("steer", "stop")
    rig.world.faults.release()
    assert await run.ended() == "succeeded"
    answer = next(entry for entry in await run.transcript() if entry["kind"] == "tool_result")
    assert "1 run.steered\n2 run.steered" in answer["content"]
    assert [len(rig.mails(f"steered code {number}")) for number in range(3)] == [1, 0, 0]
