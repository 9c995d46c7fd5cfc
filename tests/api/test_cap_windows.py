"""Caps with windows, on pairs, with thresholds and a history: set, shown, and counted at admission."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest

from holdfast.actions.run_facts import RunReader
from holdfast.database.engine import transaction
from holdfast.ledger.scopes import ScopeKind

from .world import Json, Tenant, World, problem

pytestmark = pytest.mark.usefixtures("hour")

NAMES = {
    "tenant": "",
    "project": "default",
    "user": "owner",
    "role": "helper",
    "user_project": "owner/default",
    "user_role": "owner/helper",
    "project_role": "default/helper",
}


async def put(tenant: Tenant, kind: str = "tenant", *, name: str | None = None, **body: Any) -> httpx.Response:
    scope = {"kind": kind, "name": NAMES[kind] if name is None else name}
    return await tenant.owner.put("/v1/caps", json={"scope": scope, "reason": "test", **body})


async def made(tenant: Tenant, kind: str = "tenant", **body: Any) -> Json:
    answer = await put(tenant, kind, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def end_windows(world: World, tenant: Tenant) -> None:
    """Lets every window have ended a moment ago, as if time had passed."""
    await world.execute(
        """UPDATE caps SET ends_at = clock_timestamp() - interval '1 microsecond'
           WHERE tenant_id = $1 AND newest AND window_kind <> 'total'""",
        tenant.tenant_id,
    )


async def items(tenant: Tenant, path: str, **params: Any) -> list[Json]:
    answer = await tenant.owner.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["items"]
    return found


async def test_a_cap_of_a_day_has_the_bounds_of_the_tenants_day(tenant: Tenant) -> None:
    zone = "Australia/Lord_Howe"
    body = {"time_zone": zone, "reason": "we live there"}
    assert (await tenant.owner.put("/v1/tenant/time-zone", json=body)).json()["time_zone"] == zone
    cap = await made(tenant, limit_usd="2", window="day", thresholds=[90, 10, 90])
    starts, ends = (datetime.fromisoformat(cap[name]).astimezone(ZoneInfo(zone)) for name in ("starts_at", "ends_at"))
    assert (starts.hour, starts.minute, ends.hour, ends.minute) == (0, 0, 0, 0)
    assert starts <= datetime.now(UTC) < ends
    assert (cap["window"], cap["in_force"], cap["thresholds"], cap["thresholds_passed"]) == ("day", True, [10, 90], [])
    total = await made(tenant, limit_usd="3")
    assert (total["window"], total["starts_at"], total["ends_at"]) == ("total", None, None)
    listed = await items(tenant, "/v1/caps", scope_kind="tenant")
    assert [(one["window"], one["limit_usd"]) for one in listed] == [("total", "3"), ("day", "2")]
    assert (await tenant.owner.get(f"/v1/caps/{cap['cap_id']}")).json() == cap


async def test_a_time_zone_is_one_that_both_calendars_know_and_is_recorded(tenant: Tenant) -> None:
    for zone in ("Mars/Base", "UTC+3", "", "../etc/passwd", "EST5EDT4", "x" * 61):
        answer = await tenant.owner.put("/v1/tenant/time-zone", json={"time_zone": zone, "reason": "x"})
        problem(answer, 422, "request.invalid")
    developer = await tenant.as_user("dev", "developer")
    body = {"time_zone": "Asia/Kolkata", "reason": "x"}
    problem(await developer.put("/v1/tenant/time-zone", json=body), 403, "auth.not_permitted")
    assert (await developer.get("/v1/tenant")).json()["time_zone"] == "UTC"
    await tenant.owner.put("/v1/tenant/time-zone", json=body)
    (decision,) = await items(tenant, "/v1/decisions", code="tenant.time_zone")
    assert decision["kind"] == "config"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("tenant", {"limit_usd": "1", "window": "week"}),
        *(
            ("tenant", {"limit_usd": "1", "window": name})
            for name in ("0h", "745h", "24", "24H", "024h", "h", "1.5h", "24h\n", "", "٣h")
        ),
        ("tenant", {"limit_usd": "1", "thresholds": [0]}),
        ("tenant", {"limit_usd": "1", "thresholds": [101]}),
        ("tenant", {"limit_usd": "1", "thresholds": list(range(1, 12))}),
        ("user_role", {"limit_usd": "1", "name": "owner"}),
        ("user_role", {"limit_usd": "1", "name": "/helper"}),
        ("project_role", {"limit_usd": "1", "name": "default/"}),
    ],
)
async def test_a_window_that_is_none_is_refused(tenant: Tenant, kind: str, body: dict[str, Any]) -> None:
    problem(await put(tenant, kind, **body), 422, "request.invalid")


async def test_pairs_of_what_is_not_there_are_not_found(tenant: Tenant) -> None:
    for kind, name in (
        ("user_role", "owner/nobody"), ("user_role", "nobody/helper"), ("project_role", "x/helper"),
        ("user_project", "owner/x"),
    ):  # fmt: skip
        problem(await put(tenant, kind, name=name, limit_usd="1"), 404, "resource.not_found")


async def test_every_scope_there_is_applies_to_a_run_and_is_shown_by_name(tenant: Tenant, world: World) -> None:
    """What admission counts, what decisions count and what people name are the same caps."""
    run_id = await tenant.run()
    for kind, name in NAMES.items():
        assert (await made(tenant, kind, limit_usd="4", window="day"))["scope_name"] == (name or tenant.slug)
    async with transaction(world.engine("governor"), tenant.tenant_id) as connection:
        facts = await RunReader().read(connection, tenant.tenant_id, UUID(run_id))
    assert {scope.kind for scope in facts.scopes} == set(get_args(ScopeKind)) == {*NAMES, "run"}
    listed = [*await items(tenant, "/v1/caps"), *await items(tenant, "/v1/caps", run=run_id)]
    assert {(cap["scope_kind"], cap["scope_id"]) for cap in listed} == {
        (scope.kind, scope.scope_id) for scope in facts.scopes
    }
    estimated = (await tenant.owner.post("/v1/estimate", json={"agent": "desk", "input": "x"})).json()["caps"]
    named = {(cap["scope_kind"], cap["scope_name"]) for cap in estimated if cap["window"] == "day"}
    assert named == {(kind, name or tenant.slug) for kind, name in NAMES.items()}


@pytest.mark.parametrize("kind", [*NAMES])
@pytest.mark.parametrize("guaranteed", [False, True])
async def test_admission_counts_the_window_in_force(tenant: Tenant, world: World, kind: str, guaranteed: bool) -> None:
    cap = await made(tenant, kind, limit_usd="1", window="day")
    body = {"agent": "desk", "input": "x", "guaranteed": guaranteed}
    await world.execute("UPDATE caps SET committed = limit_amount WHERE cap_id = $1", UUID(cap["cap_id"]))
    refused = problem(await tenant.owner.post("/v1/runs", json=body), 402, "budget.insufficient")
    assert f"the cap on {kind} per day has $0.0000 left of $1.0000" in refused["detail"]
    await end_windows(world, tenant)
    (shown,) = [
        one
        for one in await items(tenant, "/v1/caps", scope_kind=kind, scope_name=NAMES[kind])
        if one["window"] == "day"
    ]
    assert (shown["committed"], shown["available"], shown["in_force"]) == (0, 1_000_000_000, True)
    assert datetime.fromisoformat(shown["ends_at"]) > datetime.now(UTC)
    assert (await tenant.owner.post("/v1/runs", json=body)).status_code == 201
    windows = await items(tenant, f"/v1/caps/{cap['cap_id']}/windows")
    assert windows[-1]["committed"] == 1_000_000_000
    assert [one["in_force"] for one in windows] == ([True, False] if guaranteed else [True])


async def pass_hours(world: World, tenant: Tenant, hours: int) -> None:
    """Moves all buckets into the past, as if time had passed; first far away, so that no two stand in one place in between."""
    for moved in (10_000, hours - 10_000):
        await world.execute(
            f"""UPDATE caps SET starts_at = starts_at - interval '{moved} hours', ends_at = ends_at - interval '{moved} hours'
               WHERE tenant_id = $1 AND rolling_hours IS NOT NULL""",
            tenant.tenant_id,
        )


@pytest.mark.parametrize("kind", [*NAMES])
@pytest.mark.parametrize("guaranteed", [False, True])
async def test_admission_counts_what_is_left_in_a_rolling_window(
    tenant: Tenant, world: World, kind: str, guaranteed: bool
) -> None:
    cap = await made(tenant, kind, limit_usd="1", window="24h")
    assert (cap["window"], cap["in_force"], cap["leaves_at"], cap["leaves"]) == ("24h", True, None, None)
    body = {"agent": "desk", "input": "x", "guaranteed": guaranteed}
    await world.execute("UPDATE caps SET committed = limit_amount WHERE cap_id = $1", UUID(cap["cap_id"]))

    async def shown() -> Json:
        found = await items(tenant, "/v1/caps", scope_kind=kind, scope_name=NAMES[kind])
        (one,) = [one for one in found if one["window"] == "24h"]
        return one

    for hours in (0, 23, 1):
        await pass_hours(world, tenant, hours)
        refused = problem(await tenant.owner.post("/v1/runs", json=body), 402, "budget.insufficient")
        assert f"the cap on {kind} per 24h has $0.0000 left of $1.0000" in refused["detail"]
        now = await shown()
        assert (now["committed"], now["available"], now["leaves"]) == (10**9, 0, 10**9)
        starts, ends, leaves = (datetime.fromisoformat(now[name]) for name in ("starts_at", "ends_at", "leaves_at"))
        assert (ends - starts, ends > datetime.now(UTC)) == (timedelta(hours=25), True)
        assert datetime.now(UTC) < leaves <= datetime.now(UTC) + timedelta(hours=25)
        estimated = (await tenant.owner.post("/v1/estimate", json=body)).json()["caps"]
        assert [(one["available"], one["affords"]) for one in estimated if one["window"] == "24h"] == [(0, False)]
    await pass_hours(world, tenant, 1)
    now = await shown()
    assert (now["committed"], now["available"], now["leaves_at"], now["leaves"]) == (0, 10**9, None, None)
    assert (await tenant.owner.post("/v1/runs", json=body)).status_code == 201
    windows = await items(tenant, f"/v1/caps/{cap['cap_id']}/windows")
    assert (windows[-1]["committed"], windows[-1]["leaves_at"]) == (10**9, None)
    assert [one["committed"] for one in windows[:-1]] == [0] * (len(windows) - 1), "each hour stands alone"
    assert [one["in_force"] for one in windows] == [True, *[False] * (len(windows) - 1)]
    assert (len(windows) > 1) == guaranteed, "who only looks begins no hour"


async def test_the_history_of_a_cap_spans_its_windows_and_comes_in_pages(tenant: Tenant, world: World) -> None:
    first = await made(tenant, limit_usd="1", window="hour", reason="one")
    await made(tenant, limit_usd="9", window="day", reason="another cap")
    await made(tenant, unlimited=True, window="hour", reason="two")
    await end_windows(world, tenant)
    last = await made(tenant, limit_usd="0", window="hour", reason="three")
    assert last["cap_id"] != first["cap_id"]
    for cap_id in (first["cap_id"], last["cap_id"]):
        changes = await items(tenant, f"/v1/caps/{cap_id}/changes")
        assert [(one["reason"], one["made"], one["from_amount"], one["to_amount"]) for one in changes] == [
            ("three", False, None, 0),
            ("two", False, 10**9, None),
            ("one", True, None, 10**9),
        ]
        assert {one["actor"] for one in changes} == {"user:owner"}
        paged, cursor = [], None
        while True:
            page = (
                await tenant.owner.get(
                    f"/v1/caps/{cap_id}/changes", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
                )
            ).json()
            paged += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert paged == changes
    problem(
        await tenant.owner.get(f"/v1/caps/{last['cap_id']}/changes", params={"cursor": "eA=="}), 422, "request.invalid"
    )
    problem(await tenant.owner.get("/v1/caps", params={"scope_name": "x"}), 422, "request.invalid")


async def test_debt_that_a_raise_pays_is_in_the_history(tenant: Tenant, world: World) -> None:
    await made(tenant, limit_usd="1", window="day")
    run_id = await tenant.run()
    await made(tenant, limit_usd="0.001", window="day")
    hold = await tenant.unknown_hold(run_id, nano_usd=1_000_000)
    body = {"happened": True, "cost_usd": "0.003", "reason": "the bill"}
    assert (await tenant.owner.post(f"/v1/holds/{hold}/resolve", json=body)).status_code == 200
    (cap,) = [one for one in await items(tenant, "/v1/caps") if one["window"] == "day"]
    assert (cap["committed"], cap["debt"], cap["thresholds_passed"]) == (1_000_000, 2_000_000, [50, 80, 100])
    raised = await made(tenant, limit_usd="0.0025", window="day")
    assert (raised["committed"], raised["debt"]) == (2_500_000, 500_000)
    (newest, *_) = await items(tenant, f"/v1/caps/{raised['cap_id']}/changes")
    assert newest["debt_paid"] == 1_500_000
