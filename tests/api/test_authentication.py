"""Keys: what is not a valid key of this moment opens nothing, and is recorded within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import create_engine
from holdfast.ids import PLATFORM_TENANT_ID
from holdfast.tenancy.failures import PER_PREFIX_AND_SECOND_MAX, PER_SECOND_MAX, FailureLog
from holdfast.tenancy.keys import KeyRefused

from .world import Tenant, World, problem, until


async def refusals(world: World, prefix: str) -> list[dict[str, Any]]:
    """Returns what the platform's log has about a key: all but what the API is writing by itself at this moment."""
    await world.api.parts.failures.flush()
    rows = await world.fetch(
        "SELECT part_a FROM decisions WHERE tenant_id = $1 AND kind = 'auth' ORDER BY decision_id", PLATFORM_TENANT_ID
    )
    noted = [one for row in rows for one in orjson.loads(row["part_a"])["facts"]["refused"]]
    return [one for one in noted if one["prefix"] == prefix]


@asynccontextmanager
async def cut_before_commit(world: World, times: int) -> AsyncIterator[AsyncEngine]:
    """Yields the database behind a network that breaks so many times at the moment when a transaction is to be committed."""
    url = make_url(world.stack.database_url("holdfast_api"))
    left = [True] * times

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(url.host, url.port)

        async def up() -> None:
            while data := await reader.read(65_536):
                if b"COMMIT" in data and left:
                    left.pop()
                    break
                downstream.write(data)
            downstream.transport.abort()
            writer.transport.abort()

        rising = asyncio.create_task(up())
        with suppress(OSError):
            while data := await upstream.read(65_536):
                writer.write(data)
        writer.transport.abort()
        await rising

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    through = url.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    engine = create_engine(through.render_as_string(hide_password=False), process="test-cut", pool_size=2)
    async with server:
        yield engine
        await engine.dispose()
    assert not left, "it was never cut"


async def test_what_was_refused_while_the_database_went_away_is_recorded_later(world: World) -> None:
    """The commit is lost twice: nothing is raised, for whoever is refused is refused all the same, and nothing is forgotten."""
    refused = KeyRefused("hf_cutaaaa", "unknown")
    async with cut_before_commit(world, times=2) as engine:
        failures = FailureLog(engine)
        await failures.note(refused)
        await failures.flush()
        assert await refusals(world, refused.prefix) == []
        await failures.flush()
    assert [(one["reason"], one["count"]) for one in await refusals(world, refused.prefix)] == [("unknown", 1)]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Basic aGY6eA==",
        "Bearer hf_",
        "Bearer hf_aaaaaaaa_short",
        "Bearer hf_aaaaaaaa_" + "A" * 43 + "\u00e4",
        "Bearer hf_aaaaaaaa_" + "A" * 43,
        "Bearer hf_AAAAAAAA_" + "A" * 43,
        "Bearer " + "x" * 10_000,
        "Bearer ' OR 1=1 --",
    ],
)
async def test_what_is_no_key_opens_nothing(world: World, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1", "replace")}
    async with world.api.client() as client:
        answer = await client.get("/v1/me", headers=headers)  # type: ignore[arg-type]  # bytes are what this is about
        body = problem(answer, 401, "auth.not_authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "A" * 20 not in str(body)


async def test_expired_and_revoked_keys_are_refused_at_once(tenant: Tenant, world: World) -> None:
    short = await tenant.as_user("brief", "viewer", life=timedelta(hours=1))
    me = (await short.get("/v1/me")).json()
    assert (me["user"], me["roles"], me["tenant"]) == ("brief", ["viewer"], tenant.slug)
    await world.execute("UPDATE api_keys SET expires_at = now() WHERE key_id = $1::uuid", me["key_id"])
    assert "expired" in problem(await short.get("/v1/me"), 401, "auth.not_authenticated")["detail"]

    gone = await tenant.as_user("gone", "viewer")
    key_id = (await gone.get("/v1/me")).json()["key_id"]
    for _ in range(2):
        revoked = await tenant.owner.delete(f"/v1/keys/{key_id}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"]
    assert "revoked" in problem(await gone.get("/v1/me"), 401, "auth.not_authenticated")["detail"]
    prefix = tenant.keys["gone"][:11]
    await until(lambda: refusals(world, prefix))
    assert [(one["reason"], one["count"]) for one in await refusals(world, prefix)] == [("revoked", 1)]


async def test_keys_are_stored_as_hashes_and_shown_once(tenant: Tenant, world: World) -> None:
    body = {"user": "owner", "project": "default", "roles": ["viewer", "finance"]}
    made = (await tenant.owner.post("/v1/keys", json=body)).json()
    key = made.pop("key")
    assert key.startswith(made["prefix"] + "_")
    listed = (await tenant.owner.get("/v1/keys")).json()["items"]
    assert made in listed
    assert key not in orjson.dumps(listed).decode()
    dump = await world.fetch("SELECT t::text AS row FROM api_keys t WHERE key_id = $1::uuid", made["key_id"])
    assert key[12:] not in dump[0]["row"]
    async with world.api.client(key) as client:
        assert (await client.get("/v1/me")).json()["roles"] == ["finance", "viewer"]


async def test_a_flood_is_counted_and_does_not_drown_the_log(world: World) -> None:
    flood = 200
    prefix = "hf_floodaaa"
    before = await world.value("SELECT count(*) FROM decisions WHERE kind = 'auth'")
    began = time.monotonic()

    async def counted() -> int:
        return sum(one["count"] for one in await refusals(world, prefix))

    async def all_are_counted() -> bool:
        return await counted() >= flood

    async with world.api.client(f"{prefix}_{'A' * 43}") as client:
        for _ in range(4):
            await asyncio.gather(*(client.get("/v1/me") for _ in range(flood // 4)))
    await until(all_are_counted)
    assert await counted() == flood
    written = await world.value("SELECT count(*) FROM decisions WHERE kind = 'auth'") - before
    seconds = int(time.monotonic() - began) + 2  # in which something was refused, however slow this machine is
    assert written <= (PER_PREFIX_AND_SECOND_MAX + 1) * seconds, (
        "some one by one, and what was only counted once a second"
    )
    assert flood > PER_SECOND_MAX


@pytest.mark.parametrize(
    ("roles", "method", "path", "body"),
    [
        (["viewer"], "POST", "/v1/runs", {"agent": "desk", "input": "x"}),
        (["approver"], "POST", "/v1/runs", {"agent": "desk", "input": "x"}),
        (["finance"], "GET", "/v1/runs", None),
        (["agent"], "GET", "/v1/caps", None),
        (["developer"], "PUT", "/v1/caps", {"scope": {"kind": "tenant"}, "limit_usd": "9", "reason": "x"}),
        (["developer"], "PUT", "/v1/roles/helper", {}),
        (["auditor"], "PUT", "/v1/agents/desk", None),
        (["developer"], "GET", "/v1/keys", None),
        (["developer"], "POST", "/v1/users", {"name": "x"}),
        (["developer"], "PUT", "/v1/vault/provider.openai", {"api_key": "x"}),
        (["owner", "admin"], "GET", "/v1/tenants", None),
        (["owner", "admin"], "POST", "/v1/tenants", {"slug": "x", "name": "x"}),
        (["owner"], "POST", "/codec/decode", {"payloads": []}),
    ],
)
async def test_roles_do_what_they_may_and_no_more(
    tenant: Tenant, roles: list[str], method: str, path: str, body: dict[str, object] | None
) -> None:
    someone = await tenant.as_user("someone", *roles)
    if path == "/v1/agents/desk":
        body = (await tenant.owner.get(path)).json()["definition"]
    problem(await someone.request(method, path, json=body), 403, "auth.not_permitted")


async def test_nobody_makes_a_key_that_is_above_them(tenant: Tenant) -> None:
    async def make(client: httpx.AsyncClient, *roles: str) -> httpx.Response:
        return await client.post("/v1/keys", json={"user": "owner", "project": "default", "roles": roles})

    admin = await tenant.as_user("adam", "admin")
    problem(await make(admin, "owner"), 403, "auth.not_permitted")
    problem(await make(tenant.owner, "operator"), 422, "request.invalid")
    assert (await make(admin, "admin")).status_code == 201
    owners_key = (await tenant.owner.get("/v1/me")).json()["key_id"]
    problem(await admin.delete(f"/v1/keys/{owners_key}"), 403, "auth.not_permitted")


async def test_an_operator_makes_tenants_that_cannot_spend_yet(world: World) -> None:
    key = await world.operator_key()
    async with world.api.client(key) as operator:
        slug = f"acme-{key[3:11]}"
        made = await operator.post("/v1/tenants", json={"slug": slug, "name": "Acme", "time_zone": "Europe/Paris"})
        assert made.status_code == 201, made.text
        assert slug in [tenant["slug"] for tenant in (await operator.get("/v1/tenants")).json()["items"]]
        again = await operator.post("/v1/tenants", json={"slug": slug, "name": "Acme"})
        problem(again, 409, "resource.conflict")
        nowhere = await operator.post("/v1/tenants", json={"slug": "z" + slug, "name": "A", "time_zone": "Mars/Base"})
        problem(nowhere, 422, "request.invalid")
    async with world.api.client(made.json()["key"]["key"]) as owner:
        assert (await owner.get("/v1/caps")).json()["items"] == []
        assert (await owner.get("/v1/me")).json()["roles"] == ["admin", "approver", "owner"]


async def test_users_and_projects(tenant: Tenant) -> None:
    assert (await tenant.owner.post("/v1/users", json={"name": "Zoë Ö"})).status_code == 201
    problem(await tenant.owner.post("/v1/users", json={"name": "Zoë Ö"}), 409, "resource.conflict")
    assert (await tenant.owner.post("/v1/projects", json={"slug": "billing"})).status_code == 201
    problem(await tenant.owner.post("/v1/projects", json={"slug": "billing"}), 409, "resource.conflict")
    assert [user["name"] for user in (await tenant.owner.get("/v1/users")).json()["items"]] == ["Zoë Ö", "owner"]
    first = (await tenant.owner.get("/v1/projects", params={"limit": 1})).json()
    rest = (await tenant.owner.get("/v1/projects", params={"cursor": first["next_cursor"]})).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["billing", "default"]
    body = {"agent": "desk", "input": "x", "project": "billing"}
    assert (await tenant.owner.post("/v1/runs", json=body)).json()["project"] == "billing"
