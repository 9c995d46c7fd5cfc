"""Decisions over the API: found by any filters, written for other programs, and followed as they come."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from holdfast.decisions import query
from tests.forging import write_past_triggers

from . import ocsf
from .test_log_routes import sequence, write
from .world import Tenant, World, problem, until

# JSON answers carry no types
Json = Any


async def listed(client: httpx.AsyncClient, **params: str) -> list[Json]:
    answer = await client.get("/v1/decisions", params=params)
    assert answer.status_code == 200, answer.text
    items: list[Json] = answer.json()["items"]
    return items


@pytest.mark.parametrize("numbered", [False, True])
async def test_decisions_are_found_by_what_they_are_about(world: World, tenant: Tenant, numbered: bool) -> None:
    run_id = await tenant.run()
    await tenant.reserve(run_id, step=1, tool="mail.list", args={})
    await tenant.reserve(run_id, step=2)
    if numbered:
        await sequence(world)
    [mail] = await listed(tenant.owner, tool="mail.list")
    assert (mail["agent"], mail["role"], mail["rule_id"]) == ("desk", "helper", "tools")
    assert (mail["leaf_index"] is not None) == numbered
    for params in (
        {"agent": "desk", "kind": "tool.call", "verdict": "allow"},
        {"role": "helper", "rule": "tools"},
        {"run": run_id, "code": mail["reason_codes"][0], "tool": "mail.list", "from": mail["created_at"]},
    ):
        assert mail in await listed(tenant.owner, **params), params
    about = await listed(tenant.owner, agent="desk")
    assert {one["kind"] for one in about} >= {"run.admission", "tool.call"}
    for params in (
        {"agent": "other"},
        {"tool": "mail.list", "verdict": "deny"},
        {"tool": "mail.list", "to": mail["created_at"]},
        {"rule": ""},
    ):
        assert not [one for one in await listed(tenant.owner, **params) if one["tool"] == "mail.list"], params


async def test_what_is_denied_before_there_is_a_run_is_found_by_its_agent(world: World, tenant: Tenant) -> None:
    await tenant.set_cap("0")
    assert (await tenant.owner.post("/v1/runs", json={"agent": "desk", "input": "x"})).status_code == 402
    for _ in range(2):
        [denied] = await listed(tenant.owner, agent="desk", role="helper", verdict="deny")
        assert denied["kind"] == "run.admission"
        await sequence(world)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"from": "2026-03-01T00:00:00"}, "no zone"),
        ({"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "not after"),
        ({"from": "yesterday"}, "from"),
        ({"verdict": "maybe"}, "verdict"),
        ({"format": "xml"}, "format"),
        ({"agent": "x\x00"}, "agent"),
        ({"agent": "x" * 201}, "agent"),
        ({"run": "7"}, "run"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5LjAxOTlmM2EwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMA=="}, "cursor"),
    ],
)
async def test_a_filter_that_says_nothing_is_refused_by_name(tenant: Tenant, params: dict[str, str], said: str) -> None:
    assert said in problem(await tenant.owner.get("/v1/decisions", params=params), 422, "request.invalid")["detail"]
    if not {"cursor", "format"} & params.keys():
        problem(await tenant.owner.get("/v1/decisions/events", params=params), 422, "request.invalid")


async def test_pages_lead_from_the_newest_to_the_oldest(world: World, tenant: Tenant) -> None:
    await write(world, tenant, 40)
    await sequence(world)
    await write(world, tenant, 7)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "10", **({"cursor": cursor} if cursor else {})}
        page = (await tenant.owner.get("/v1/decisions", params=params)).json()
        seen += [one["decision_id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert seen == [one["decision_id"] for one in await listed(tenant.owner, limit="200")]


async def test_exports_hold_all_and_formats_are_asked_for_by_name_or_accept(
    world: World, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "BATCH", 7)  # so that there are many batches
    run_id = await tenant.run()
    await tenant.reserve(run_id, tool="mail.list", args={})
    await write(world, tenant, 30)
    await sequence(world)
    await write(world, tenant, 3)
    everything = await listed(tenant.owner, limit="200")
    by_accept = await tenant.owner.get("/v1/decisions", headers={"accept": "application/jsonl"})
    by_name = await tenant.owner.get("/v1/decisions", params={"format": "jsonl"})
    assert by_accept.text == by_name.text
    assert by_name.headers["content-type"].startswith("application/jsonl")
    lines = [json.loads(line) for line in by_name.text.splitlines()]
    assert lines == everything[::-1]
    tabled = await tenant.owner.get("/v1/decisions", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(tabled.text, newline="")))
    assert [row["decision_id"] for row in rows] == [one["decision_id"] for one in lines]
    assert list(rows[0]) == list(lines[0])
    some = await tenant.owner.get("/v1/decisions", params={"format": "jsonl", "tool": "mail.list"})
    assert [json.loads(line)["tool"] for line in some.text.splitlines()] == ["mail.list"]
    nothing = await tenant.owner.get("/v1/decisions", params={"format": "csv", "agent": "nobody"})
    assert nothing.text.count("\r\n") == 1, "a heading alone"


async def test_no_cell_of_the_csv_is_a_formula(world: World, tenant: Tenant) -> None:
    for start in ("=", "+", "-", "@", "\t", "\r"):
        await world.execute(
            """INSERT INTO decisions (tenant_id, decision_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
               VALUES ($1, new_id(), 'config', 'allow', '{}', jsonb_build_object('message', $2::text, 'rule_id', $2::text), '{}', '{}',
               sha256('x'))""",
            tenant.tenant_id,
            f"{start}cmd|' /C calc'!A0",
        )
    answer = await tenant.owner.get("/v1/decisions", params={"format": "csv"})
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert sum(cell.startswith("'") for row in rows for cell in row) == 12
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")]


async def test_ocsf_events_are_what_their_class_says(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    allowed = await tenant.reserve(run_id, step=1, tool="mail.list", args={})
    denied = await tenant.reserve(run_id, step=2, tool="account.delete", args={"customer_id": "C-1"})
    assert denied.verdict == "deny"
    await (await tenant.as_user("robot", "agent")).get("/v1/decisions")
    await write(world, tenant, 3)
    await sequence(world)
    await tenant.reserve(run_id, step=3, tool="mail.list", args={})  # not in the log yet
    answer = await tenant.owner.get("/v1/decisions", params={"format": "ocsf"})
    events = {event["metadata"]["uid"]: event for event in map(json.loads, answer.text.splitlines())}
    assert len({event["metadata"]["event_code"] for event in events.values()}) > 2, "of several kinds"
    assert {event["status_id"] for event in events.values()} >= {1, 2}
    for event in events.values():
        assert ocsf.wrong(event) == [], event
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"] == 600_399
    event = events[str(allowed.decision_id)]
    assert (event["action_id"], event["disposition_id"], event["status_id"]) == (1, 1, 1)
    assert event["actor"]["app_name"] == "desk"
    assert event["actor"]["user"]["groups"] == [{"name": "helper", "type": "role"}]
    assert event["api"]["operation"] == "mail.list"
    assert event["metadata"]["correlation_uid"] == run_id
    assert event["authorizations"][0] == {"decision": "allow", "policy": event["policy"]}
    assert event["policy"]["uid"] == "tools"


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.pop("src_endpoint"),
        lambda event: event.pop("time"),
        lambda event: event.update(time="2026-03-01"),
        lambda event: event.update(action_id=7),
        lambda event: event.update(more="than the class has"),
        lambda event: event["metadata"].update(profiles=[]),
        lambda event: event["metadata"].pop("product"),
        lambda event: event["actor"].update(agent="desk"),
        lambda event: event["api"].pop("operation"),
    ],
)
async def test_an_event_that_is_none_of_its_class_is_seen(
    world: World, tenant: Tenant, change: Callable[[Json], object]
) -> None:
    await sequence(world)
    answer = await tenant.owner.get("/v1/decisions", params={"format": "ocsf"})
    event = json.loads(answer.text.splitlines()[0])
    assert ocsf.wrong(event) == []
    change(event)
    assert ocsf.wrong(event)


async def follow(client: httpx.AsyncClient, count: int, *, last_id: str | None = None, **params: str) -> list[Json]:
    """Takes so many decisions and hangs up; each with the id that came with it."""
    got: list[Json] = []
    headers = {"last-event-id": last_id} if last_id else {}
    async with (
        asyncio.timeout(120),
        client.stream("GET", "/v1/decisions/events", headers=headers, params=params) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        event_id = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                got.append({"id": event_id, **json.loads(line[6:])})
                if len(got) == count:
                    return got
    return got


async def test_followers_get_each_decision_once_across_cut_connections(
    world: World, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "BATCH", 7)
    monkeypatch.setattr("api.decision_tail.BATCH", 7)
    await write(world, tenant, 25)
    await sequence(world)
    total = await world.value("SELECT size FROM logs WHERE tenant_id = $1", tenant.tenant_id)
    got: list[Json] = []
    last_id = "0"
    writing = asyncio.create_task(_write_and_sequence(world, tenant, rounds=6))
    for count in (1, 10, 3, 7, total + 18 - 21):
        some = await follow(tenant.owner, count, last_id=last_id)
        got += some
        last_id = some[-1]["id"]
    await writing
    assert [one["leaf_index"] for one in got] == list(range(total + 18))


async def _write_and_sequence(world: World, tenant: Tenant, rounds: int) -> None:
    for _ in range(rounds):
        await write(world, tenant, 3)
        await sequence(world)


async def test_a_follower_without_a_place_gets_what_comes_from_now_on_and_filters_hold(
    world: World, tenant: Tenant
) -> None:
    await write(world, tenant, 5)
    await sequence(world)
    before = await world.value("SELECT size FROM logs WHERE tenant_id = $1", tenant.tenant_id)

    async def streams(count: int) -> None:
        async def are_open() -> bool:
            return world.api.parts.streams == count

        await until(are_open)

    await streams(0)  # what other tests have left has ended
    following = asyncio.create_task(follow(tenant.owner, 1, agent="desk", kind="tool.call"))
    await streams(1)
    await write(world, tenant, 5)
    await tenant.reserve(await tenant.run(), tool="mail.list", args={})
    await sequence(world)
    [got] = await following
    assert got["tool"] == "mail.list"
    assert got["leaf_index"] >= before


async def test_a_place_that_is_none_is_refused(world: World, tenant: Tenant) -> None:
    await write(world, tenant, 1)
    await sequence(world)
    for last_id in ("x", "-1", "1.5", "9" * 19, "999999"):
        answer = await tenant.owner.get("/v1/decisions/events", headers={"last-event-id": last_id})
        problem(answer, 422, "request.invalid")


async def test_an_agents_key_reads_no_decisions_and_another_tenants_are_not_there(
    world: World, tenant: Tenant, other: Tenant
) -> None:
    agent = await tenant.as_user("robot", "agent")
    for path in ("/v1/decisions?format=csv", "/v1/decisions?agent=desk", "/v1/decisions/events"):
        problem(await agent.get(path), 403, "auth.not_permitted")
    theirs = await other.run()
    await sequence(world)
    for format_ in ("jsonl", "csv", "ocsf"):
        exported = (await tenant.owner.get("/v1/decisions", params={"format": format_})).text
        assert exported
        assert theirs not in exported
    following = asyncio.create_task(follow(tenant.owner, 1, last_id="0"))
    assert theirs not in json.dumps(await following)


DESK = """role helper {
  permit llm.call
  permit payments.refund where args.amount_usd_cents <= 2000 as small
  gate asked: payments.refund where args.amount_usd_cents > 1000
    needs 1 of role("approver")
}
"""


async def explanation(client: httpx.AsyncClient, decision_id: object) -> Json:
    answer = await client.get(f"/v1/decisions/{decision_id}/explanation")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_decision_is_explained_by_the_version_that_decided_whatever_decides_now(
    world: World, tenant: Tenant
) -> None:
    (await tenant.owner.put("/v1/roles/helper", json={"policy": DESK})).raise_for_status()
    run_id = await tenant.run()
    refund: Json = {"order_id": "A-1", "amount_usd_cents": 1500, "reason": "broken"}
    asked = await tenant.reserve(run_id, args=refund)
    dear = await tenant.reserve(run_id, step=2, args={**refund, "amount_usd_cents": 2500})
    told = await explanation(tenant.owner, asked.decision_id)
    assert (told["verdict"], told["rule_id"], told["nearly"], told["cannot"]) == ("needs_approval", "asked", [], [])
    gate = next(rule for rule in told["rules"] if rule["rule_id"] == "asked")
    assert gate["fires"]
    assert gate["conditions"][0]["values"] == {"args.amount_usd_cents": 1500}
    shown = (await tenant.owner.get(f"/v1/policies/{told['policy_version']}")).json()
    assert shown["policy_hash"] == told["policy_hash"]
    assert shown["source"].splitlines()[gate["line"] - 1].strip().startswith("gate asked")
    request = {"role": "helper", "action": "payments.refund", "args": refund}
    asking = await tenant.owner.post("/v1/policies/explain", json={"request": request})
    assert asking.json()["rules"] == told["rules"], "in the same words"

    await tenant.owner.put("/v1/roles/helper", json={"policy": "role helper {\n  permit tools\n}\n"})
    assert await explanation(tenant.owner, asked.decision_id) == told
    told = await explanation(tenant.owner, dear.decision_id)
    assert (told["code"], told["rule_id"], told["nearly"]) == ("policy.not_permitted", "", ["small"])

    admission = next(one for one in await listed(tenant.owner, run=run_id) if one["kind"] == "run.admission")
    told = await explanation(tenant.owner, admission["decision_id"])
    assert (told["policy_version"], told["rules"]) == (0, [])
    assert "something else than an action" in told["notes"][0]


async def test_a_deleted_record_says_that_it_is(world: World, tenant: Tenant) -> None:
    run_id = await tenant.run()
    decision = await tenant.reserve(run_id)
    await write_past_triggers(
        world.superuser,
        "UPDATE decisions SET part_a = NULL, part_a_sha256 = sha256(part_a) WHERE tenant_id = $1 AND decision_id = $2",
        tenant.tenant_id,
        decision.decision_id,
    )
    told = await explanation(tenant.owner, decision.decision_id)
    assert told["rules"] == []
    assert "was deleted" in told["cannot"][0]
    guest = await tenant.as_user("bob", "guest")
    assert (await guest.get(f"/v1/decisions/{decision.decision_id}/explanation")).status_code == 403
