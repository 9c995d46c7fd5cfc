"""Refunds and account deletions: once, whatever happens to the answers (LAW 4, LAW 9)."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from activities.tools.dispatch import run_tool
from activities.tools.invocation import ToolResult
from demo.refund_desk.world.faults import Fault, Kind
from demo.refund_desk.world.servers import World
from holdfast.errors import LeaseLost
from holdfast_verdict.canonical import JsonValue

from .conftest import Invoke
from .cut_off import cut_off
from .live_lease import LiveLease
from .raw_server import raw_server

REFUND: dict[str, JsonValue] = {"order_id": "A-1003", "amount_usd_cents": 3490, "reason": "cracked glass"}


async def refund(invoke: Invoke, world: World, *, key: str = "acme:run:7", **changes: JsonValue) -> ToolResult:
    return await run_tool(
        invoke("payments.refund", {**REFUND, **changes}, world.credentials()["tool.payments"], key=key)
    )


async def test_a_refund_is_paid_once_for_all_tries(invoke: Invoke, world: World, lease: LiveLease) -> None:
    first, again = await refund(invoke, world), await refund(invoke, world)
    assert (first.ok, first.cost) == (True, "known")
    assert first.content == again.content
    [paid] = world.store.refunds()
    assert (paid["order_id"], paid["amount_usd_cents"], paid["requests"]) == ("A-1003", 3490, 2)
    assert (lease.begun, lease.checked) == (2, 2)


async def test_the_same_key_for_another_refund_is_refused(invoke: Invoke, world: World) -> None:
    await refund(invoke, world)
    other = await refund(invoke, world, amount_usd_cents=9999)
    assert (other.cost, other.error_code, other.retryable) == ("nothing", "payments.refused", False)
    assert len(world.store.refunds()) == 1


@pytest.mark.parametrize(
    ("kind", "cost", "code", "retry_after_ms", "paid"),
    [
        ("answer_lost", "unknown", "payments.answer_lost", None, 1),
        ("error_before", "unknown", "payments.failed", None, 0),
        ("rate_limited", "nothing", "payments.rate_limited", 1000, 0),
    ],
)
async def test_after_any_fault_the_next_try_pays_exactly_once(
    invoke: Invoke, world: World, kind: Kind, cost: str, code: str, retry_after_ms: int | None, paid: int
) -> None:
    world.faults.add("refunds", Fault(kind))
    result = await refund(invoke, world)
    assert (result.ok, result.cost, result.error_code, result.retryable) == (False, cost, code, True)
    assert result.retry_after_ms == retry_after_ms
    assert len(world.store.refunds()) == paid
    assert (await refund(invoke, world)).ok
    assert len(world.store.refunds()) == 1


async def test_a_slow_answer_is_waited_for_and_a_held_one_comes_when_released(invoke: Invoke, world: World) -> None:
    world.faults.add("refunds", Fault("slow", delay_ms=50))
    assert (await refund(invoke, world, key="a")).ok
    world.faults.add("refunds", Fault("gate"))
    held = asyncio.create_task(refund(invoke, world, key="b"))
    while world.faults.held == 0:  # bounded by the test's timeout
        await asyncio.sleep(0.005)
    assert len(world.store.refunds()) == 2
    assert not held.done()
    assert world.faults.release() == 1
    assert (await held).ok


async def test_a_timeout_leaves_the_outcome_unknown(
    invoke: Invoke, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.faults.add("refunds", Fault("gate"))

    async def attempt(bound_ms: int) -> ToolResult:
        monkeypatch.setattr("activities.tools.service._TIMEOUT_MS", bound_ms)
        return await refund(invoke, world)

    result = await cut_off(attempt)
    assert (result.cost, result.error_code, result.retryable) == ("unknown", "payments.answer_lost", True)


async def test_an_unreachable_or_unwilling_service_cost_nothing(invoke: Invoke, world: World) -> None:
    credential = world.credentials()["tool.payments"]
    away = await run_tool(invoke("payments.refund", REFUND, {**credential, "base_url": "http://127.0.0.1:1"}))
    assert (away.cost, away.error_code, away.retryable) == ("nothing", "payments.unavailable", True)
    wrong = await run_tool(invoke("payments.refund", REFUND, {**credential, "api_key": "hush"}))
    assert (wrong.cost, wrong.error_code, wrong.retryable) == ("nothing", "payments.refused", False)
    assert "hush" not in wrong.content


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "payments.unexpected"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nnope", "payments.answer_unreadable"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]", "payments.answer_unreadable"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", "payments.answer_contradicts"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{", "payments.answer_lost"),
        (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "payments.failed"),
        (b"rubbish\r\n\r\n", "payments.answer_lost"),
        (b"", "payments.answer_lost"),
    ],
)  # fmt: skip
async def test_what_is_no_clear_answer_leaves_the_outcome_unknown(
    invoke: Invoke, world: World, answer: bytes, code: str
) -> None:
    async with raw_server(answer=answer) as server:
        credential = {**world.credentials()["tool.payments"], "base_url": f"http://127.0.0.1:{server.port}"}
        result = await run_tool(invoke("payments.refund", REFUND, credential))
    assert (result.ok, result.cost, result.error_code) == (False, "unknown", code)
    assert len(server.requests) == 1


async def test_without_its_lease_no_byte_is_written(invoke: Invoke, world: World, lease: LiveLease) -> None:
    lease.lost_before_writing = True
    async with raw_server() as server:
        credential = {**world.credentials()["tool.payments"], "base_url": f"http://127.0.0.1:{server.port}"}
        with pytest.raises(LeaseLost):
            await run_tool(invoke("payments.refund", REFUND, credential))
    assert server.requests == []


async def test_an_account_is_deleted_once(invoke: Invoke, world: World) -> None:
    credential = world.credentials()["tool.accounts"]
    world.faults.add("accounts", Fault("answer_lost"))
    lost = await run_tool(invoke("account.delete", {"customer": "C-2211"}, credential))
    assert (lost.cost, lost.retryable) == ("unknown", True)
    again = await run_tool(invoke("account.delete", {"customer": "C-2211"}, credential))
    assert json.loads(again.content) == {"deleted": True, "customer": "C-2211"}
    other = await run_tool(invoke("account.delete", {"customer": "C-2211"}, credential, key="acme:run:8"))
    assert (other.cost, other.error_code) == ("nothing", "account.refused")
    assert "C-2211" not in world.store.accounts()
    assert len(world.store.accounts()) == 11


async def test_the_service_itself_wants_a_key_and_speaks_of_faults(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.payments.base_url, trust_env=False) as client:
        for method, path in (
            ("GET", "/refunds"),
            ("POST", "/refunds"),
            ("POST", "/control/faults"),
            ("GET", "/accounts"),
        ):
            assert (await client.request(method, path)).status_code == 401
        client.headers["Authorization"] = f"Bearer {world.api_key}"
        assert (await client.post("/refunds", json=dict(REFUND))).status_code == 400
        assert (await client.post("/refunds", json={"order_id": "x"})).status_code == 422
        assert (await client.post("/control/faults", json={"kind": "nonsense"})).status_code == 422
        fault = {"target": "refunds", "kind": "error_before", "times": 2}
        assert (await client.post("/control/faults", json=fault)).status_code == 200
        headers = {"Idempotency-Key": "k"}
        statuses = [(await client.post("/refunds", json=dict(REFUND), headers=headers)).status_code for _ in range(3)]
        assert statuses == [500, 500, 201]
        assert len((await client.get("/refunds")).json()["refunds"]) == 1
