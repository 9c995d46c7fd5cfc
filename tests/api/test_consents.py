"""Consent of several, by others in one's place, by link and by signature; and what each cannot do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast_verdict.policy import Gate, Need

from .test_approvals import asked, decide
from .world import REFUND, Tenant, World, problem

TWO = Gate((Need(2, "role", "approver"),), 600_000)
SIGNER = Gate((Need(1, "signer", "bank"),), 600_000)


async def post(client: httpx.AsyncClient, approval: str, what: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/approvals/{approval}/{what}", json=body)


@pytest.fixture
async def anna(tenant: Tenant) -> httpx.AsyncClient:
    return await tenant.as_user("anna", "approver")


@pytest.fixture
async def bob(tenant: Tenant) -> httpx.AsyncClient:
    return await tenant.as_user("bob", "approver")


@pytest.fixture
async def nobody(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any key."""
    async with world.api.client() as client:
        yield client


async def test_two_have_to_consent_and_each_sees_who_has(
    tenant: Tenant, anna: httpx.AsyncClient, bob: httpx.AsyncClient, world: World
) -> None:
    _, approval = await asked(tenant, asks=TWO)
    first = (await decide(anna, approval, "approved", comment="fine")).json()
    assert (first["state"], first["needs"][0]["met_by"], first["needs"][0]["missing"]) == ("pending", ["anna"], 1)
    assert [(vote["name"], vote["verdict"], vote["counts"]) for vote in first["votes"]] == [("anna", "approved", True)]
    assert (await decide(anna, approval, "approved")).json()["state"] == "pending", "one person counts once"
    assert (await decide(bob, approval, "approved")).json()["state"] == "approved"
    codes = "SELECT reason_codes[1] FROM decisions WHERE approval_id = $1 AND kind = 'approval' ORDER BY decision_id"
    recorded = [row[0] for row in await world.fetch(codes, UUID(approval))]
    assert recorded == ["approval.voted", "approval.approved"]


async def test_one_denial_denies_and_a_vote_can_be_taken_back_before(
    tenant: Tenant, anna: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant, asks=TWO)
    await decide(anna, approval, "approved")
    taken = (await post(anna, approval, "withdraw", comment="wait")).json()
    assert (taken["withdrawn"], taken["approval"]["needs"][0]["missing"]) == ("vote", 2)
    problem(await post(anna, approval, "withdraw"), 409, "approval.no_vote")
    assert (await decide(bob, approval, "approved")).json()["state"] == "pending"
    assert (await decide(anna, approval, "denied")).json()["state"] == "denied"
    problem(await post(bob, approval, "withdraw"), 409, "approval.decided")


async def test_the_requester_withdraws_the_request_and_nobody_else(tenant: Tenant, anna: httpx.AsyncClient) -> None:
    _, approval = await asked(tenant)
    problem(await post(anna, approval, "withdraw"), 409, "approval.no_vote")
    taken = (await post(tenant.owner, approval, "withdraw", comment="a mistake")).json()
    assert (taken["withdrawn"], taken["approval"]["state"]) == ("request", "withdrawn")
    assert (await post(tenant.owner, approval, "withdraw")).json()["withdrawn"] == "request"
    problem(await decide(anna, approval, "approved"), 409, "approval.decided")
    problem(await decide(anna, approval, "denied"), 409, "approval.decided")


async def test_a_delegate_votes_in_ones_place_and_takes_one_seat(
    tenant: Tenant, anna: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    carl = await tenant.as_user("carl", "viewer")
    _, approval = await asked(tenant, asks=TWO)
    problem(await decide(carl, approval, "approved"), 403, "approval.not_eligible")
    problem(await post(anna, approval, "delegate", to="owner"), 403, "approval.not_eligible")
    problem(await post(anna, approval, "delegate", to="anna"), 403, "approval.not_eligible")
    problem(await post(anna, approval, "delegate", to="stranger"), 404, "resource.not_found")
    problem(await post(carl, approval, "delegate", to="bob"), 403, "approval.not_eligible")
    assert (await post(anna, approval, "delegate", to="carl")).json()["delegations"][0]["to_name"] == "carl"
    problem(await decide(anna, approval, "approved"), 403, "approval.not_eligible")
    problem(await post(carl, approval, "delegate", to="bob"), 403, "approval.not_eligible")
    assert (await decide(carl, approval, "approved")).json()["state"] == "pending"
    problem(await post(anna, approval, "withdraw"), 409, "approval.vote_stands")
    assert (await decide(bob, approval, "approved")).json()["state"] == "approved"


async def test_a_delegation_that_was_not_used_can_be_taken_back(
    tenant: Tenant, anna: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    carl = await tenant.as_user("carl", "viewer")
    _, approval = await asked(tenant)
    await post(anna, approval, "delegate", to="carl")
    assert (await post(anna, approval, "withdraw")).json()["withdrawn"] == "delegation"
    problem(await decide(carl, approval, "approved"), 403, "approval.not_eligible")
    assert (await decide(anna, approval, "approved")).json()["state"] == "approved"


async def test_after_an_edit_a_vote_is_for_what_was_shown(
    tenant: Tenant, anna: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    carl = await tenant.as_user("carl", "approver")
    _, approval = await asked(tenant, asks=TWO)
    before = (await decide(anna, approval, "approved")).json()
    edited = (await decide(bob, approval, "approved", edited_arguments={**REFUND, "amount_usd_cents": 1})).json()
    assert (edited["state"], edited["revision"], edited["needs"][0]["met_by"]) == ("pending", 1, ["bob"])
    assert edited["binding"] != before["binding"]
    change = {"argument": "amount_usd_cents", "before": REFUND["amount_usd_cents"], "after": 1}
    assert edited["changes"] == [change]
    assert [vote["counts"] for vote in edited["votes"]] == [False, True]
    problem(await decide(carl, approval, "approved"), 409, "approval.changed")
    problem(await decide(carl, approval, "approved", binding=before["binding"]), 409, "approval.changed")
    done = (await decide(carl, approval, "approved", binding=edited["binding"])).json()
    assert (done["state"], done["edited_action"]["args"]["amount_usd_cents"]) == ("approved", 1)


async def test_a_role_that_only_consents_sees_what_concerns_it(tenant: Tenant) -> None:
    finance, legal = await tenant.as_user("fin", "finance"), await tenant.as_user("lex", "legal")
    _, approval = await asked(tenant, asks=Gate((Need(1, "role", "finance"),), 600_000))
    assert [each["approval_id"] for each in (await finance.get("/v1/approvals")).json()["items"]] == [approval]
    assert (await legal.get("/v1/approvals")).json()["items"] == []
    problem(await legal.get(f"/v1/approvals/{approval}"), 404, "resource.not_found")
    assert (await decide(finance, approval, "approved")).json()["state"] == "approved"


async def link_of(client: httpx.AsyncClient, approval: str, **body: Any) -> str:
    answer = await post(client, approval, "links", **body)
    assert answer.status_code == 201, answer.text
    path: str = answer.json()["path"]
    return path


async def test_a_link_shows_without_deciding_and_decides_once(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient, world: World
) -> None:
    _, approval = await asked(tenant)
    path = await link_of(anna, approval)
    for _ in range(3):
        shown = await nobody.get(path)
        assert (shown.json()["user"], shown.json()["approval"]["state"]) == ("anna", "pending")
        assert (shown.headers["referrer-policy"], shown.headers["cache-control"]) == ("no-referrer", "no-store")
    body = {"verdict": "approved", "binding": shown.json()["approval"]["binding"]}
    problem(await nobody.post(path, json={**body, "binding": "00" * 32}), 409, "approval.changed")
    answers = await asyncio.gather(*(nobody.post(path, json=body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[403] * 7]
    problem(await nobody.get(path), 403, "approval.link_invalid")
    view = (await anna.get(f"/v1/approvals/{approval}")).json()
    assert (view["decided_by"], view["votes"][0]["via"]) == ("anna", "link")
    secret = path.rpartition("/")[2]
    tables = ("approval_links", "approval_votes", "decisions", "timeline_events")
    for table in tables:
        rows = await world.fetch(f"SELECT t::text AS row FROM {table} t WHERE tenant_id = $1", tenant.tenant_id)
        assert not [row for row in rows if secret in row["row"]], table


async def test_a_link_is_worth_what_its_approver_may(
    tenant: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    _, approval = await asked(tenant)
    await tenant.as_user("dora", "viewer")
    problem(await post(anna, approval, "links", user="dora"), 403, "auth.not_permitted")
    problem(await post(tenant.owner, approval, "links"), 403, "approval.not_eligible")
    problem(await post(tenant.owner, approval, "links", user="anna"), 403, "approval.not_eligible")
    admin = await tenant.as_user("chief", "admin")
    problem(await post(admin, approval, "links", user="dora"), 403, "approval.not_eligible")
    path = await link_of(admin, approval, user="anna")
    key_id = (await anna.get("/v1/me")).json()["key_id"]
    assert (await tenant.owner.delete(f"/v1/keys/{key_id}")).status_code == 200
    problem(await nobody.get(path), 403, "approval.link_invalid")
    for wrong in ("x", "A" * 43, "%00" * 43):
        problem(await nobody.get(f"/v1/approval-links/{wrong}"), 403, "approval.link_invalid")


def signed(key: Ed25519PrivateKey, approval: str, binding: str, **changed: Any) -> dict[str, Any]:
    """Returns a callback, signed as the reference says."""
    body: dict[str, Any] = {
        "signer": "bank",
        "verdict": "approved",
        "binding": binding,
        "comment": "ok",
        "signed_at_s": int(time.time()),
    }
    body |= changed
    reason = hashlib.sha256(body["comment"].encode()).hexdigest()
    lines = (
        "holdfast approval v1",
        approval,
        binding,
        body["verdict"],
        body["signer"],
        str(body["signed_at_s"]),
        reason,
    )
    return {**body, "signature": base64.b64encode(key.sign("\n".join(lines).encode())).decode()}


async def test_a_signature_is_for_one_approval_one_verdict_and_one_time(
    tenant: Tenant, other: Tenant, anna: httpx.AsyncClient, nobody: httpx.AsyncClient, world: World
) -> None:
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    made = {"name": "bank", "public_key": public}
    problem(await anna.post("/v1/signers", json=made), 403, "auth.not_permitted")
    assert (await tenant.owner.post("/v1/signers", json=made)).status_code == 201
    problem(await tenant.owner.post("/v1/signers", json=made), 409, "resource.conflict")
    _, approval = await asked(tenant, asks=SIGNER)
    _, another = await asked(tenant, asks=SIGNER)
    _, not_asked = await asked(tenant)
    binding = (await anna.get(f"/v1/approvals/{approval}")).json()["binding"]
    good, path = signed(key, approval, binding), f"/v1/approval-callbacks/{approval}"
    old, ahead = int(time.time()) - 3_600, int(time.time()) + 3_600
    for wrong in (
        {**good, "verdict": "denied"},
        {**good, "comment": "other"},
        {**good, "signed_at_s": good["signed_at_s"] + 1},
        {**good, "signer": "other"},
        signed(Ed25519PrivateKey.generate(), approval, binding),
        signed(key, another, binding),
        signed(key, approval, binding, signed_at_s=old),
        signed(key, approval, binding, signed_at_s=ahead),
    ):
        problem(await nobody.post(path, json=wrong), 403, "approval.signature_refused")
    problem(await nobody.post(f"/v1/approval-callbacks/{another}", json=good), 403, "approval.signature_refused")
    problem(await nobody.post(path, json=signed(key, approval, "00" * 32)), 409, "approval.changed")
    elsewhere = signed(key, not_asked, (await anna.get(f"/v1/approvals/{not_asked}")).json()["binding"])
    problem(await nobody.post(f"/v1/approval-callbacks/{not_asked}", json=elsewhere), 403, "approval.not_eligible")
    answers = await asyncio.gather(*(nobody.post(path, json=good) for _ in range(6)))
    assert {(answer.status_code, answer.json()["state"]) for answer in answers} == {(200, "approved")}
    assert await world.value("SELECT count(*) FROM approval_votes WHERE approval_id = $1", UUID(approval)) == 1
    assert (await tenant.owner.delete("/v1/signers/bank")).status_code == 204
    late = signed(key, another, (await anna.get(f"/v1/approvals/{another}")).json()["binding"])
    problem(await nobody.post(f"/v1/approval-callbacks/{another}", json=late), 403, "approval.signature_refused")
    (record,) = await world.fetch(
        "SELECT part_a FROM decisions WHERE approval_id = $1 AND kind = 'approval'", UUID(approval)
    )
    facts = orjson.loads(record["part_a"])["facts"]
    assert (facts["subject"]["signer"], facts["binding"]) == ("bank", binding)
