"""Files of a run: given at its admission, listed, downloaded, and nobody else's."""

from __future__ import annotations

import base64
import hashlib

import pytest

from .world import Tenant, World, problem

CSV = b"order,cents\nA-1,1250\n"


async def run_with(tenant: Tenant, **files: bytes) -> str:
    given = {name.replace("__", "."): base64.b64encode(content).decode() for name, content in files.items()}
    body = {"agent": "desk", "input": "add them up", "files": given}
    answer = await tenant.owner.post("/v1/runs", json=body)
    assert answer.status_code == 201, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def test_a_file_is_given_listed_and_got_back(tenant: Tenant) -> None:
    run_id = await run_with(tenant, orders__csv=CSV)
    [item] = (await tenant.owner.get(f"/v1/runs/{run_id}/artefacts")).json()["items"]
    digest = hashlib.sha256(CSV).hexdigest()
    assert (item["step"], item["name"], item["size_bytes"], item["sha256"]) == (0, "orders.csv", len(CSV), digest)
    answer = await tenant.owner.get(f"/v1/runs/{run_id}/artefacts/0/orders.csv")
    assert answer.content == CSV
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    [first] = (await tenant.owner.get(f"/v1/runs/{run_id}")).json()["inputs"]
    assert f"orders.csv ({len(CSV)} bytes)" in first["content"]


async def test_another_tenant_gets_nothing_of_it_not_even_with_the_same_content(tenant: Tenant, other: Tenant) -> None:
    mine, theirs = await run_with(tenant, orders__csv=CSV), await run_with(other, orders__csv=CSV)
    for path in (f"/v1/runs/{mine}/artefacts", f"/v1/runs/{mine}/artefacts/0/orders.csv"):
        problem(await other.owner.get(path), 404, "resource.not_found")
    for odd in ("../" * 3 + theirs + "/artefacts/0/orders.csv", "%2e%2e%2forders.csv", "orders.csv/..", ""):
        answer = await tenant.owner.get(f"/v1/runs/{mine}/artefacts/0/{odd}")
        assert CSV not in answer.content or odd == "", odd
    stranger = await tenant.as_user("eve", "agent")
    problem(await stranger.get(f"/v1/runs/{mine}/artefacts/0/orders.csv"), 404, "resource.not_found")


async def test_what_was_changed_or_lost_in_storage_is_not_given_out(world: World, tenant: Tenant) -> None:
    run_id = await run_with(tenant, orders__csv=CSV + tenant.tenant_id.bytes)
    digest = hashlib.sha256(CSV + tenant.tenant_id.bytes).hexdigest()
    path = world.stack.folder.objects / str(tenant.tenant_id) / digest[:2] / digest
    path.write_bytes(b"forged")
    address = f"/v1/runs/{run_id}/artefacts/0/orders.csv"
    problem(await tenant.owner.get(address), 500, "artefact.lost")
    path.unlink()
    problem(await tenant.owner.get(address), 500, "artefact.lost")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", ".hidden", "a\u0000b", "", "x" * 200])
async def test_a_name_that_is_none_is_refused(tenant: Tenant, name: str) -> None:
    body = {"agent": "desk", "input": "x", "files": {name: "eA=="}}
    answer = await tenant.owner.post("/v1/runs", json=body)
    assert answer.status_code == 422, answer.text


async def test_a_content_that_is_no_base64_is_refused(tenant: Tenant) -> None:
    body = {"agent": "desk", "input": "x", "files": {"a.csv": "not base64!"}}
    problem(await tenant.owner.post("/v1/runs", json=body), 422, "request.invalid")
