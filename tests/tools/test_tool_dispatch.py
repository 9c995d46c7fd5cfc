"""The way into the tools: what runs is what was decided, and everything ends in a result that can be settled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from activities.tools import dispatch
from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolInvocation, ToolResult
from demo.refund_desk.world.servers import World
from holdfast.errors import LeaseLost
from holdfast.tools.registry import TOOLS
from holdfast_verdict.canonical import JsonValue

from .conftest import Invoke
from .live_lease import LiveLease

LETTER: dict[str, JsonValue] = {"to": ["a@b.example"], "subject": "Hi", "body": "Hello"}


def test_every_tool_can_be_run() -> None:
    assert set(dispatch._RUNNERS) == set(TOOLS)


async def test_arguments_in_another_form_than_decided_do_not_run(
    invoke: Invoke, world: World, lease: LiveLease
) -> None:
    call = invoke("mail.send", LETTER, world.credentials()["tool.mail"])
    altered: list[dict[str, JsonValue]] = [{"to": ["A@b.example"]}, {"body": "a\r\nb"}, {"bcc": "x"}, {"to": []}]
    for change in altered:
        result = await run_tool(replace(call, arguments={**call.arguments, **change}))
        assert (result.ok, result.cost) == (False, "nothing")
    missing = {name: value for name, value in call.arguments.items() if name != "in_reply_to"}
    result = await run_tool(replace(call, arguments=missing))
    assert (result.error_code, result.cost) == ("tool.arguments_altered", "nothing")
    unknown = await run_tool(replace(call, tool="mail.burn"))
    assert (unknown.error_code, unknown.cost) == ("tool.unknown", "nothing")
    assert lease.begun == 0


@pytest.mark.parametrize("tool", sorted(name for name, tool in TOOLS.items() if tool.credential is not None))
async def test_a_broken_credential_is_named_without_its_values(invoke: Invoke, lease: LiveLease, tool: str) -> None:
    good: dict[str, dict[str, JsonValue]] = {
        "mail.list": {},
        "mail.read": {"mail_id": "x"},
        "mail.send": LETTER,
        "orders.lookup": {"tenant": "acme", "order_id": "A-1"},
        "payments.refund": {"order_id": "A-1", "amount_usd_cents": 1, "reason": "x"},
        "http.request": {"method": "GET", "url": "http://a.example/"},
        "account.delete": {"customer": "C-1"},
    }
    result = await run_tool(invoke(tool, good[tool], {"dsn": 5, "unexpected": "hush"}))
    assert (result.ok, result.cost, result.error_code) == (False, "nothing", "vault.credential_missing")
    assert "unexpected" in result.content
    assert "hush" not in result.content
    assert lease.begun == 0


@pytest.mark.parametrize(("begins", "cost"), [(False, "nothing"), (True, "unknown")])
async def test_a_tool_that_raises_yields_a_result(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, begins: bool, cost: str
) -> None:
    async def broken(call: ToolInvocation) -> ToolResult:
        if begins:
            await call.outward.begin()
        raise ZeroDivisionError("hush")

    monkeypatch.setattr(dispatch, "_RUNNERS", {"mail.list": broken})
    result = await run_tool(invoke("mail.list", {}, {}))
    assert (result.ok, result.cost, result.error_code, result.retryable) == (False, cost, "tool.failed", False)
    assert "hush" not in result.content


async def test_a_lost_lease_and_a_cancellation_pass_through(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, lease: LiveLease
) -> None:
    async def twice(call: ToolInvocation) -> ToolResult:
        await call.outward.begin()
        await call.outward.begin()
        raise AssertionError("a second begin went through")

    async def forever(call: ToolInvocation) -> ToolResult:
        await call.outward.begin()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr(dispatch, "_RUNNERS", {"mail.list": twice, "mail.read": forever})
    with pytest.raises(LeaseLost):
        await run_tool(invoke("mail.list", {}, {}))
    assert lease.begun == 1
    task = asyncio.create_task(run_tool(invoke("mail.read", {"mail_id": "x"}, {})))
    while lease.begun < 2:  # bounded by the test's timeout
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
