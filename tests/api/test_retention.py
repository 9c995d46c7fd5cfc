"""Retention, erasure and legal holds over the API: who may, what is said, and what is recorded."""

from __future__ import annotations

import pytest

from holdfast.ids import new_id
from workers.eraser import Eraser

from .world import Json, Tenant, World, problem

BECAUSE = {"reason": "because"}


async def recorded(world: World, tenant: Tenant, code: str) -> list[Json]:
    rows = await world.fetch(
        "SELECT verdict, convert_from(part_a, 'UTF8') AS a FROM decisions WHERE tenant_id = $1 AND reason_codes = ARRAY[$2]",
        tenant.tenant_id,
        code,
    )
    return [(row["verdict"], row["a"]) for row in rows]


async def test_nothing_is_deleted_unless_somebody_says_so(world: World, tenant: Tenant) -> None:
    shown = (await tenant.owner.get("/v1/audit/retention")).json()
    assert (shown["days"], shown["set_by"], shown["records"]) == (None, "", 0)
    put = await tenant.owner.put("/v1/audit/retention", json={"days": 30})
    assert put.status_code == 200, put.text
    assert put.json()["days"] == 30
    assert put.json()["set_by"]
    [(verdict, facts)] = await recorded(world, tenant, "retention.set")
    assert verdict == "allow"
    assert '"days":30' in facts
    assert '"user":"owner"' in facts
    assert (await tenant.owner.put("/v1/audit/retention", json={"days": None})).json()["days"] is None
    for days in (0, -1, 36_501, "30", 1.5):
        problem(await tenant.owner.put("/v1/audit/retention", json={"days": days}), 422, "request.invalid")
    problem(await tenant.owner.put("/v1/audit/retention", json={}), 422, "request.invalid")


async def test_a_legal_hold_is_placed_once_and_lifted_with_a_reason(world: World, tenant: Tenant) -> None:
    run = await tenant.run()
    first = (await tenant.owner.post("/v1/audit/legal-holds", json={"run": run, "reason": "a dispute"})).json()
    again = (await tenant.owner.post("/v1/audit/legal-holds", json={"run": run, "reason": "another"})).json()
    assert (first["stood"], again["stood"]) == (False, True)
    assert (again["legal_hold_id"], again["reason"]) == (first["legal_hold_id"], "a dispute")
    whole = (await tenant.owner.post("/v1/audit/legal-holds", json=BECAUSE)).json()
    listed = (await tenant.owner.get("/v1/audit/legal-holds")).json()["items"]
    assert [each["legal_hold_id"] for each in listed] == [whole["legal_hold_id"], first["legal_hold_id"]]
    path = f"/v1/audit/legal-holds/{first['legal_hold_id']}/lift"
    problem(await tenant.owner.post(path, json={}), 422, "request.invalid")
    lifted = (await tenant.owner.post(path, json={"reason": "it is settled"})).json()
    assert lifted["lifted_at"]
    assert (await tenant.owner.post(path, json={"reason": "twice"})).json() == lifted, "lifting again changes nothing"
    assert len((await tenant.owner.get("/v1/audit/legal-holds")).json()["items"]) == 1
    assert len((await tenant.owner.get("/v1/audit/legal-holds?all=true")).json()["items"]) == 2
    assert len(await recorded(world, tenant, "legal_hold.placed")) == 2
    [(_, facts)] = await recorded(world, tenant, "legal_hold.lifted")
    assert "it is settled" in facts
    missing = {"run": str(new_id()), "reason": "x"}
    problem(await tenant.owner.post("/v1/audit/legal-holds", json=missing), 404, "resource.not_found")


async def test_what_is_on_legal_hold_is_not_erased_and_the_try_is_recorded(world: World, tenant: Tenant) -> None:
    run = await tenant.run()
    hold = (await tenant.owner.post("/v1/audit/legal-holds", json={"run": run, **BECAUSE})).json()
    refused = await tenant.owner.post("/v1/audit/erasures", json={"run": run, **BECAUSE})
    assert "legal hold" in problem(refused, 409, "erasure.legal_hold")["detail"]
    [(verdict, facts)] = await recorded(world, tenant, "erasure.legal_hold")
    assert verdict == "deny"
    assert run in facts
    await tenant.owner.post(f"/v1/audit/legal-holds/{hold['legal_hold_id']}/lift", json=BECAUSE)
    asked = await tenant.owner.post("/v1/audit/erasures", json={"run": run, **BECAUSE})
    assert asked.status_code == 202, asked.text
    path = f"/v1/audit/erasures/{asked.json()['erasure_id']}"
    while not (await tenant.owner.get(path)).json()["ended_at"]:  # other tests' erasures are in it, too
        await Eraser(world.engine("sweeper")).sweep()
    done = (await tenant.owner.get(path)).json()
    assert (done["runs"], done["open"]) == (0, 1), "the run has not ended"
    assert len(await recorded(world, tenant, "erasure.asked")) == 1
    assert len(await recorded(world, tenant, "erasure.done")) == 1
    assert [each["erasure_id"] for each in (await tenant.owner.get("/v1/audit/erasures")).json()["items"]] == [
        done["erasure_id"]
    ]


@pytest.mark.parametrize(
    "body", [{}, {"user": "owner", "tenant": True}, {"tenant": False}, {"user": "owner", "run": str(new_id())}]
)
async def test_an_erasure_is_of_exactly_one_thing(tenant: Tenant, body: Json) -> None:
    problem(await tenant.owner.post("/v1/audit/erasures", json={**body, **BECAUSE}), 422, "request.invalid")


async def test_an_erasure_of_nobody_is_not_found(tenant: Tenant) -> None:
    for body in ({"user": "nobody"}, {"run": str(new_id())}):
        problem(await tenant.owner.post("/v1/audit/erasures", json={**body, **BECAUSE}), 404, "resource.not_found")


async def test_who_reads_changes_nothing(tenant: Tenant) -> None:
    auditor = await tenant.as_user("auditor", "auditor")
    hold = (await tenant.owner.post("/v1/audit/legal-holds", json=BECAUSE)).json()["legal_hold_id"]
    for path in ("retention", "legal-holds", "erasures"):
        assert (await auditor.get(f"/v1/audit/{path}")).status_code == 200
    for client in (auditor, await tenant.as_user("dev", "developer"), await tenant.as_user("eva", "approver")):
        for method, path, body in (
            ("PUT", "retention", {"days": 1}),
            ("POST", "legal-holds", BECAUSE),
            ("POST", f"legal-holds/{hold}/lift", BECAUSE),
            ("POST", "erasures", {"tenant": True, **BECAUSE}),
        ):
            problem(await client.request(method, f"/v1/audit/{path}", json=body), 403, "auth.not_permitted")
