"""`GET /v1/spend`: groups, filters, pages and CSV of what was settled."""

from __future__ import annotations

import asyncio
import csv
import io
import socket
from typing import Any
from uuid import UUID

import pytest

import api.spend
from api.context import EXPORTS_MAX
from holdfast.ids import new_id

from .world import Tenant, World, problem, until

_ROW = """
    INSERT INTO rollups (tenant_id, day, run_id, kind, tool, model, project_id, user_id, agent, role, simulated, holds, calls, tokens,
        input_tokens, cached_tokens, cost_nano_usd)
    SELECT tenant_id, $2::text::date, $3, $4, $5, $6, project_id, user_id, $7, role_name, $8, 1, 1, $9, $10, 0, $11 FROM runs
    WHERE run_id = $1
"""


async def book(world: World, run_id: str, day: str, **given: Any) -> None:
    """Writes a rollup as settling would; one that the route shows is never made by a route."""
    row = {
        "kind": "llm.call", "tool": "", "model": "m-1", "agent": "desk", "simulated": False, "tokens": 10, "input": 7, "cost": 1_000,
        **given,
    }  # fmt: skip
    await world.execute(_ROW, UUID(run_id), day, new_id(), *row.values())


async def spend(tenant: Tenant, /, **params: str) -> Any:
    answer = await tenant.owner.get("/v1/spend", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def booked(world: World, tenant: Tenant) -> str:
    run_id = await tenant.run()
    await book(world, run_id, "2026-03-01")
    await book(world, run_id, "2026-03-02", model="m-2", cost=2_500_000_000)
    await book(world, run_id, "2026-03-02", agent="other", simulated=True, cost=30)
    await book(world, run_id, "2026-03-03", kind="tool.call", tool="mail.send", model="", tokens=0, input=0, cost=0)
    return run_id


async def test_nothing_spent_is_an_answer_too(tenant: Tenant) -> None:
    found = await spend(tenant, group_by="agent")
    assert (found["items"], found["next_cursor"], found["time_zone"]) == ([], None, "UTC")
    assert (found["total"]["cost_usd"], found["total"]["holds"]) == ("0", 0)


async def test_a_settled_hold_is_there_at_once(tenant: Tenant) -> None:
    run_id = await tenant.run()
    hold = await tenant.unknown_hold(run_id, nano_usd=1_000_000)
    body = {"happened": True, "cost_usd": "0.0005", "reason": "seen on the bill"}
    assert (await tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body)).status_code == 200
    dimensions = "tenant,project,user,run,agent,role,model,tool,kind,simulated"
    (group,) = (await spend(tenant, group_by=dimensions))["items"]
    assert list(group["group"].items()) == list(
        zip(
            dimensions.split(","),
            (tenant.slug, "default", "owner", run_id, "desk", "helper", "", "mail.list", "tool.call", "false"),
            strict=True,
        )
    )
    assert (group["cost_nano_usd"], group["cost_usd"], group["calls"], group["holds"]) == (500_000, "0.0005", 1, 1)
    assert (group["simulated_nano_usd"], group["simulated_usd"]) == (0, "0")


async def test_groups_stand_in_order_and_the_total_is_of_all(tenant: Tenant, booked: str) -> None:
    found = await spend(tenant, group_by="day,model")
    assert [tuple(item["group"].values()) for item in found["items"]] == [
        ("2026-03-01", "m-1"),
        ("2026-03-02", "m-1"),
        ("2026-03-02", "m-2"),
        ("2026-03-03", ""),
    ]
    total = found["total"]
    assert (total["cost_nano_usd"], total["cost_usd"], total["simulated_nano_usd"]) == (2_500_001_030, "2.50000103", 30)
    assert (total["tokens"], total["input_tokens"], total["output_tokens"]) == (30, 21, 9)
    dearest = await spend(tenant, group_by="agent", sort="cost")
    assert [item["group"]["agent"] for item in dearest["items"]] == ["desk", "other"]
    assert (await spend(tenant))["items"] == []


@pytest.mark.parametrize(
    ("params", "nano_usd"),
    [
        ({"agent": "other"}, 30),
        ({"agent": "nobody"}, 0),
        ({"model": "m-2"}, 2_500_000_000),
        ({"tool": "mail.send"}, 0),
        ({"kind": "llm.call"}, 2_500_001_030),
        ({"role": "helper", "project": "default", "user": "owner"}, 2_500_001_030),
        ({"simulated": "true"}, 30),
        ({"simulated": "false"}, 2_500_001_000),
        ({"from": "2026-03-02"}, 2_500_000_030),
        ({"to": "2026-03-01"}, 1_000),
        ({"from": "2026-03-02", "to": "2026-03-02", "agent": "desk"}, 2_500_000_000),
    ],
)
async def test_filters_count_only_what_they_say(
    tenant: Tenant, booked: str, params: dict[str, str], nano_usd: int
) -> None:
    found = await spend(tenant, group_by="run", **params)
    assert found["total"]["cost_nano_usd"] == nano_usd
    assert sum(item["cost_nano_usd"] for item in found["items"]) == nano_usd


@pytest.mark.parametrize("sort", ["group", "cost"])
async def test_pages_show_every_group_once(world: World, tenant: Tenant, sort: str) -> None:
    run_id = await tenant.run()
    for number in range(7):
        await book(world, run_id, f"2026-03-0{number + 1}", model=f"m'-{number}\N{SNOWMAN}", cost=number // 3)
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await spend(tenant, group_by="model,day", sort=sort, limit="2", **cursor)
        seen += page["items"]
        assert page["total"]["holds"] == 7
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len({item["group"]["model"] for item in seen}) == len(seen) == 7
    costs = [item["cost_nano_usd"] for item in seen]
    assert costs == sorted(costs, reverse=sort == "cost")


async def test_what_cannot_be_asked_is_said(tenant: Tenant) -> None:
    for params in (
        {"group_by": "moon"}, {"group_by": "day,day"}, {"group_by": "r.day; DROP TABLE rollups"}, {"from": "yesterday"},
        {"from": "2026-03-02", "to": "2026-03-01"}, {"sort": "x"}, {"format": "xls"}, {"group_by": "day", "cursor": "WyJ4Il0"},
        {"group_by": "day", "cursor": "WzFd"}, {"agent": "a\x00b"}, {"run": "x"},
    ):  # fmt: skip
        problem(await tenant.owner.get("/v1/spend", params=params), 422, "request.invalid")
    for params in ({"project": "x"}, {"user": "x"}):
        problem(await tenant.owner.get("/v1/spend", params=params), 404, "resource.not_found")
        problem(await tenant.owner.get("/v1/spend", params={**params, "format": "csv"}), 404, "resource.not_found")


async def test_who_sees_nothing_of_the_tenant_sees_no_spend(tenant: Tenant, booked: str) -> None:
    agent = await tenant.as_user("robot", "agent")
    problem(await agent.get("/v1/spend"), 403, "auth.not_permitted")
    viewer = await tenant.as_user("looker", "viewer")
    assert (await viewer.get("/v1/spend")).json()["total"]["holds"] == 4


async def test_another_tenants_spend_is_not_there(tenant: Tenant, other: Tenant, booked: str) -> None:
    for params in ({}, {"run": booked}, {"agent": "desk"}):
        assert (await spend(other, group_by="run", **params))["items"] == []
        answer = await other.owner.get("/v1/spend", params={"group_by": "run", "format": "csv", **params})
        assert len(answer.text.splitlines()) == 1
    problem(await other.owner.get("/v1/spend", params={"tenant": tenant.slug}), 404, "resource.not_found")
    assert (await spend(tenant, tenant=tenant.slug))["total"]["holds"] == 4


async def test_csv_is_all_of_it_and_no_name_is_a_formula(world: World, tenant: Tenant, booked: str) -> None:
    names = ("=1+1", "+x", "-x", "@x", "\tx", 'a "quoted", name', "two\nlines")
    for number, name in enumerate(names):
        await book(world, booked, "2026-04-01", model=name, cost=number)
    params = {"group_by": "model", "from": "2026-04-01"}
    answer = await tenant.owner.get("/v1/spend", params={**params, "format": "csv"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "spend.csv" in answer.headers["content-disposition"]
    heading, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert heading == [
        "model",
        "holds",
        "calls",
        "tokens",
        "input_tokens",
        "cached_tokens",
        "cost_nano_usd",
        "simulated_nano_usd",
    ]
    assert {row[0] for row in rows} == {"'=1+1", "'+x", "'-x", "'@x", "'\tx", 'a "quoted", name', "two\nlines"}
    assert sum(int(row[6]) for row in rows) == sum(range(len(names)))
    accepted = await tenant.owner.get("/v1/spend", params=params, headers={"accept": "text/csv"})
    assert accepted.text == answer.text


async def test_an_export_is_written_piece_by_piece_and_bounded_in_number(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    await world.execute(
        """INSERT INTO rollups (tenant_id, day, run_id, kind, tool, model, project_id, user_id, agent, role, holds, cost_nano_usd)
           SELECT tenant_id, '2026-01-01', run_id, 'llm.call', '', 'm-' || n, project_id, user_id, 'desk', 'helper', 1, n
           FROM runs, generate_series(1, 20000) AS n WHERE run_id = $1""",
        UUID(run_id),
    )
    params = {"group_by": "model", "format": "csv"}
    pieces = 0
    async with tenant.owner.stream("GET", "/v1/spend", params=params) as answer:
        lines = 0
        async for piece in answer.aiter_raw():
            pieces += 1
            lines += piece.count(b"\r\n")
    assert lines == 20_001
    assert pieces > 10
    parts = world.api.parts
    assert parts.exports == 0
    parts.exports = EXPORTS_MAX
    try:
        refused = await tenant.owner.get("/v1/spend", params=params)
    finally:
        parts.exports = 0
    problem(refused, 503, "service.unavailable")
    assert "retry-after" in refused.headers


async def test_a_client_that_takes_nothing_of_an_export_is_dropped(
    world: World, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.spend, "WRITE_TIMEOUT_S", 0.3)
    await world.execute(
        """INSERT INTO rollups (tenant_id, day, run_id, kind, tool, model, project_id, user_id, agent, role, holds)
           SELECT tenant_id, '2026-01-01', run_id, 'llm.call', '', repeat('m', 400) || n, project_id, user_id, 'desk', 'helper', 1
           FROM runs, generate_series(1, 30000) AS n WHERE run_id = $1""",
        UUID(await tenant.run()),
    )
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    with slow:
        slow.connect(("127.0.0.1", world.api.server.port))
        request = f"GET /v1/spend?group_by=model&format=csv HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.keys['owner']}\r\n\r\n"
        slow.sendall(request.encode())
        parts, exporting = world.api.parts, False

        async def dropped() -> bool:
            nonlocal exporting
            exporting = exporting or parts.exports == 1
            return exporting and parts.exports == 0

        await until(dropped)
        received = bytearray()
        slow.settimeout(10)
        while piece := await asyncio.to_thread(slow.recv, 65_536):
            received += piece
    assert received.count(b"\r\n") < 30_000
    assert not received.endswith(b"\r\n0\r\n\r\n"), "what was cut must not look whole"


async def test_a_guaranteed_budget_is_not_counted_beside_what_its_run_did_with_it(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run(guaranteed=True, cap_usd="1")
    hold = await tenant.unknown_hold(run_id, nano_usd=1_000_000)
    await tenant.end(run_id)
    body = {"happened": True, "cost_usd": "0.0005", "reason": "seen on the bill"}
    assert (await tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body)).status_code == 200
    settled = "SELECT cost_nano_usd FROM journal WHERE run_id = $1 AND kind = 'commit'"
    assert [row[0] for row in await world.fetch(settled, UUID(run_id))] == [500_000, 500_000], (
        "the budget is settled, too"
    )
    found = await spend(tenant, group_by="kind")
    assert [(item["group"]["kind"], item["cost_nano_usd"]) for item in found["items"]] == [("tool.call", 500_000)]
    assert found["total"]["cost_nano_usd"] == 500_000
