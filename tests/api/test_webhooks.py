"""Webhooks: what is told, signed how, tried again when, and what no receiver can do to others."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.database.engine import transaction
from holdfast.ledger.types import Event
from holdfast.timeline import events
from holdfast.webhooks.service import EVENTS
from holdfast.webhooks.signature import public_key_text, signed_headers, webhook_key
from workers import webhook_sender
from workers.webhook_sender import WebhookSender
from workers.webhook_signer import KEPT_DAYS, WebhookSigner

from .world import Tenant, World, problem, until

PERMIT_KEY = Ed25519PrivateKey.generate()
DELAYS_MS = (20, 40, 60)


@dataclass(slots=True)
class Receiver:
    """A real HTTP server on loopback that notes what it got and answers what it is told to."""

    port: int = 0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[int], bytes] = lambda _: b"HTTP/1.1 204 No Content\r\n\r\n"
    open_now: int = 0
    open_most: int = 0
    held: asyncio.Event | None = None
    """Until it is set, nothing is answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?from=holdfast"

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if self.held is not None:
                await self.held.wait()
            self.got.append((headers, body))
            writer.write(self.answer(len(self.got)))
            await writer.drain()
        finally:
            self.open_now -= 1
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


@pytest.fixture(autouse=True)
async def _no_dead_connections(world: World) -> None:
    """Other tests kill PostgreSQL; who sweeps and who sends would look again, and these tests look once."""
    for role in ("executor", "sweeper"):
        await world.engine(role).dispose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


def sender_of(world: World, private_hosts: tuple[str, ...] = (), **changes: Any) -> WebhookSender:
    return WebhookSender(world.engine("executor"), private_hosts, 20, **{"delays_ms": DELAYS_MS, **changes})


async def taken(sender: WebhookSender, webhook_id: str) -> list[Any]:
    """Takes what is due; rows of other tests are none of this one's."""
    return [row for row in await sender.take(16, busy=()) if str(row.webhook_id) == webhook_id]


def signer_of(world: World) -> WebhookSigner:
    return WebhookSigner(world.engine("sweeper"), webhook_key(PERMIT_KEY))


@asynccontextmanager
async def sending(world: World, *receivers: Receiver, **changes: Any) -> AsyncIterator[None]:
    """Signs and sends, as a governor and an executor do."""
    sender = sender_of(world, tuple(f"127.0.0.1:{one.port}" for one in receivers), **changes)
    signer = signer_of(world)

    over = asyncio.Event()

    async def sign() -> None:
        while not over.is_set():
            await signer.sign_due()
            await asyncio.sleep(0.02)

    signing, task = asyncio.create_task(sign()), asyncio.create_task(sender.run())
    try:
        yield
    finally:
        sender.stop()
        await task
        over.set()
        await signing


async def added(world: World, tenant: Tenant, url: str, *events: str) -> str:
    """Adds a webhook past the API's look at the URL: it knows other private hosts than the sender of a test."""
    made = await tenant.owner.post(
        "/v1/webhooks", json={"url": "https://hooks.example.com", "events": list(events or EVENTS)}
    )
    assert made.status_code == 201, made.text
    webhook_id = str(made.json()["webhook_id"])
    await world.execute("UPDATE webhooks SET url = $1 WHERE webhook_id = $2", url, webhook_id)
    return webhook_id


async def deliveries(tenant: Tenant, webhook_id: str) -> list[dict[str, Any]]:
    answer = await tenant.owner.get(f"/v1/webhooks/{webhook_id}/deliveries", params={"limit": 200})
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def ended(tenant: Tenant, webhook_id: str, count: int) -> list[dict[str, Any]]:
    async def done() -> bool:
        found = await deliveries(tenant, webhook_id)
        return len(found) >= count and all(one["state"] != "waiting" for one in found)

    await until(done, timeout_s=60)
    return await deliveries(tenant, webhook_id)


async def happened(world: World, tenant: Tenant, run_id: str, channel: str, kind: str, data: dict[str, Any]) -> None:
    """Puts an event on a run's timeline, as a governor does."""
    async with transaction(world.engine("governor"), tenant.tenant_id) as connection:
        await events.append(connection, tenant.tenant_id, UUID(run_id), [Event(channel, kind, data)])


def check_signature(public_key: str, headers: dict[str, str], body: bytes) -> None:
    """What a receiver does, by the words of Standard Webhooks."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_")))
    version, _, signature = headers["webhook-signature"].partition(",")
    assert version == "v1a"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key.verify(base64.b64decode(signature), signed)


async def test_an_unknown_outcome_is_told_signed_and_once(world: World, tenant: Tenant, receiver: Receiver) -> None:
    webhook_id = await added(world, tenant, receiver.url, "hold.unknown", "hold.resolved")
    async with sending(world, receiver):
        run_id = await tenant.run()
        hold_id = await tenant.unknown_hold(run_id)
        await happened(world, tenant, run_id, "budget", "hold.unknown", {"hold_id": hold_id})
        resolved = await tenant.owner.post(
            f"/v1/holds/{hold_id}/resolve", json={"happened": False, "reason": "the log has nothing"}
        )
        assert resolved.status_code == 200, resolved.text
        told = await ended(tenant, webhook_id, 2)
    assert [one["type"] for one in told] == ["hold.resolved", "hold.unknown"]
    assert {one["state"] for one in told} == {"delivered"}
    assert sorted(receiver.types) == ["hold.resolved", "hold.unknown"]
    shown = (await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()
    for headers, body in receiver.got:
        check_signature(shown["public_key"], headers, body)
        with pytest.raises(InvalidSignature):
            check_signature(shown["public_key"], headers, body + b" ")
        with pytest.raises(InvalidSignature):
            check_signature(shown["public_key"], {**headers, "webhook-timestamp": "1"}, body)
        assert headers["content-type"] == "application/json"
        assert headers["webhook-id"] in {one["delivery_id"] for one in told}
    unknown = next(json.loads(body) for _, body in receiver.got if json.loads(body)["type"] == "hold.unknown")
    assert unknown["data"]["hold_id"] == hold_id
    assert unknown["timestamp"].endswith("Z")
    assert unknown["data"]["channel"] == "budget"


async def test_every_approval_is_told_and_what_was_not_asked_for_is_not(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    webhook_id = await added(world, tenant, receiver.url, "approval.requested")
    async with sending(world, receiver):
        run_id = await tenant.run()
        for kind in ("hold.settled", "approval.requested", "tool.result"):
            await happened(world, tenant, run_id, "approval", kind, {"approval_id": "x"})
        await ended(tenant, webhook_id, 1)
    data = json.loads(receiver.got[0][1])["data"]
    assert (data["approval_id"], data["run"]) == ("x", run_id)
    assert receiver.types == ["approval.requested"]


async def test_what_fails_is_tried_again_with_the_same_id_and_bytes(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    receiver.answer = lambda count: (
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"
        if count == 1
        else b""  # the connection ends without a word
        if count == 2
        else b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    )
    webhook_id = await added(world, tenant, receiver.url)
    async with sending(world, receiver):
        assert (await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")).status_code == 202
        (one,) = await ended(tenant, webhook_id, 1)
    assert (one["state"], one["attempts"], one["status"], one["error"]) == ("delivered", 3, 200, "")
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


async def test_a_receiver_that_takes_nothing_is_given_up_and_can_be_switched_on_again(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    receiver.answer = lambda _: b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n"
    webhook_id = await added(world, tenant, receiver.url)
    async with sending(world, receiver):
        await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
        (one,) = await ended(tenant, webhook_id, 1)
        assert (one["state"], one["attempts"], one["status"]) == ("given_up", len(DELAYS_MS), 302)
        assert one["error"] == "the answer was 302"
        shown = (await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()
        assert shown["disabled_at"] is not None
        assert "302" in shown["disabled_reason"]
        refused = await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
        assert "switched off" in problem(refused, 409, "resource.conflict")["detail"]
        await happened(world, tenant, await tenant.run(), "budget", "hold.unknown", {})
        assert len(await deliveries(tenant, webhook_id)) == 1, "nothing is kept for whom nobody reaches"
        receiver.answer = lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        enabled = (await tenant.owner.post(f"/v1/webhooks/{webhook_id}/enable")).json()
        assert (enabled["sent_again"], enabled["webhook"]["disabled_at"]) == (1, None)
        (one,) = await ended(tenant, webhook_id, 1)
    assert one["state"] == "delivered"


async def test_gone_is_gone_at_once(world: World, tenant: Tenant, receiver: Receiver) -> None:
    receiver.answer = lambda _: b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
    webhook_id = await added(world, tenant, receiver.url)
    async with sending(world, receiver):
        await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
        (one,) = await ended(tenant, webhook_id, 1)
    assert (one["state"], one["attempts"]) == ("given_up", 1)
    assert (await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()["disabled_at"] is not None


async def test_old_deliveries_are_forgotten_and_what_waits_is_not(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    webhook_id, removed = await added(world, tenant, receiver.url), await added(world, tenant, receiver.url)
    for one in (webhook_id, webhook_id, webhook_id, removed):
        await tenant.owner.post(f"/v1/webhooks/{one}/test")
    assert (await tenant.owner.delete(f"/v1/webhooks/{removed}")).status_code in {200, 204}
    newest, older, oldest = [UUID(one["delivery_id"]) for one in await deliveries(tenant, webhook_id)]
    end = (
        "UPDATE webhook_deliveries SET state = $2, ended_at = now() - make_interval(days => $3) WHERE delivery_id = $1"
    )
    await world.execute(end, older, "delivered", KEPT_DAYS - 1)
    await world.execute(end, oldest, "given_up", KEPT_DAYS + 1)
    waits_long = "UPDATE webhook_deliveries SET created_at = now() - make_interval(days => $2) WHERE delivery_id = $1"
    await world.execute(waits_long, newest, KEPT_DAYS * 2)
    left = "SELECT delivery_id FROM webhook_deliveries WHERE tenant_id = $1 AND webhook_id = $2"

    await signer_of(world).forget_old()
    kept = {UUID(one["delivery_id"]) for one in await deliveries(tenant, webhook_id)}
    assert kept == {newest, older}
    assert len(await world.fetch(left, tenant.tenant_id, UUID(removed))) == 1, (
        "one that was just removed can be asked about"
    )
    away = "UPDATE webhooks SET removed_at = now() - make_interval(days => $2) WHERE webhook_id = $1"
    await world.execute(away, UUID(removed), KEPT_DAYS + 1)
    await signer_of(world).forget_old()
    assert await world.fetch(left, tenant.tenant_id, UUID(removed)) == []
    assert len(await deliveries(tenant, webhook_id)) == 2


async def test_many_senders_send_each_delivery_once(world: World, tenant: Tenant, receiver: Receiver) -> None:
    webhook_id = await added(world, tenant, receiver.url)
    long = (60_000,)
    async with (
        sending(world, receiver, delays_ms=long),
        sending(world, receiver, delays_ms=long),
        sending(world, receiver, delays_ms=long),
    ):
        for _ in range(40):
            await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
        await ended(tenant, webhook_id, 40)
    assert len(receiver.got) == 40
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 40


async def test_a_sender_that_dies_in_the_middle_forgets_nothing(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    webhook_id = await added(world, tenant, receiver.url)
    await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
    assert await signer_of(world).sign_due() >= 1
    assert len(await taken(sender_of(world), webhook_id)) == 1  # as if it was killed right after
    async with sending(world, receiver):
        (one,) = await ended(tenant, webhook_id, 1)
    assert (one["state"], one["attempts"]) == ("delivered", 2)


async def test_nothing_goes_out_unsigned_or_with_an_old_signature(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    webhook_id = await added(world, tenant, receiver.url)
    await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
    sender = sender_of(world)
    assert await taken(sender, webhook_id) == []
    assert await signer_of(world).sign_due() >= 1
    version = "SELECT xmin::text FROM webhook_deliveries WHERE webhook_id = $1"  # a signature made anew is a new one
    signed = await world.value(version, webhook_id)
    await signer_of(world).sign_due()
    assert await world.value(version, webhook_id) == signed, "a fresh signature is not made anew"
    await world.execute("UPDATE webhook_deliveries SET signed_s = signed_s - 200 WHERE webhook_id = $1", webhook_id)
    assert await taken(sender, webhook_id) == []
    assert await signer_of(world).sign_due() >= 1
    (row,) = await taken(sender, webhook_id)
    check_signature(
        public_key_text(webhook_key(PERMIT_KEY).public_key().public_bytes_raw()),
        dict(signed_headers(str(row.delivery_id), row.signed_s, row.signature)),
        row.body,
    )


async def test_an_end_that_comes_late_changes_nothing(world: World, tenant: Tenant, receiver: Receiver) -> None:
    """A frozen sender wakes after another has begun the next attempt."""
    webhook_id = await added(world, tenant, receiver.url)
    await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
    sender, signer = sender_of(world, delays_ms=(1, 60_000, 60_000)), signer_of(world)
    await signer.sign_due()
    (first,) = await taken(sender, webhook_id)
    await asyncio.sleep(0.005)
    await signer.sign_due()
    (second,) = await taken(sender, webhook_id)
    await sender._end(first, 410, "gone")
    (one,) = await deliveries(tenant, webhook_id)
    assert (one["state"], one["attempts"], one["error"]) == ("waiting", 2, "")
    assert (await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()["disabled_at"] is None
    await sender._end(second, 200, "")
    assert [one["state"] for one in await deliveries(tenant, webhook_id)] == ["delivered"]


async def test_a_slow_receiver_makes_nobody_else_wait(
    world: World, tenant: Tenant, other: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the sender waits for the slow one for as long as the test does
    monkeypatch.setattr(webhook_sender, "TIMEOUT_MS", 120_000)
    async with receiving() as slow, receiving() as quick:
        slow.held = asyncio.Event()
        dragging = await added(world, tenant, slow.url)
        going = await added(world, other, quick.url)
        for _ in range(30):
            await tenant.owner.post(f"/v1/webhooks/{dragging}/test")
        async with sending(world, slow, quick, delays_ms=(60_000,)):
            try:
                await until(lambda: _true(slow.open_now > 0))
                await other.owner.post(f"/v1/webhooks/{going}/test")
                await ended(other, going, 1)
                assert not [one for one in await deliveries(tenant, dragging) if one["state"] == "delivered"]
                assert slow.open_most <= 4
                await tenant.owner.delete(f"/v1/webhooks/{dragging}")
            finally:
                slow.held.set()


async def _true(value: bool) -> bool:
    return value


@pytest.mark.parametrize(
    ("url", "addresses", "error"),
    [
        ("https://inside.example", ["10.0.0.1"], "not an address on the public internet"),
        ("https://metadata.example", ["169.254.169.254"], "not an address on the public internet"),
        ("https://both.example", ["93.184.216.34", "127.0.0.1"], "not an address on the public internet"),
        ("https://[::1]", [], "not an address on the public internet"),
        ("https://127.0.0.1", [], "not an address on the public internet"),
        ("http://plain.example", ["93.184.216.34"], "without TLS"),
        ("https://nowhere.example", [], "cannot be resolved"),
    ],
)
async def test_nothing_is_sent_inside(world: World, tenant: Tenant, url: str, addresses: list[str], error: str) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return addresses

    webhook_id = await added(world, tenant, url)
    await tenant.owner.post(f"/v1/webhooks/{webhook_id}/test")
    async with sending(world, resolve=resolve):
        (one,) = await ended(tenant, webhook_id, 1)
    assert (one["state"], one["status"]) == ("given_up", None)
    assert error in one["error"]


async def test_the_key_of_webhooks_is_shown_and_is_not_the_one_of_permits(
    world: World, tenant: Tenant, receiver: Receiver
) -> None:
    webhook_id = await added(world, tenant, receiver.url)
    assert (await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()["public_key"] == ""
    async with sending(world, receiver):

        async def shown() -> str:
            return str((await tenant.owner.get(f"/v1/webhooks/{webhook_id}")).json()["public_key"])

        await until(shown)
    raw = base64.b64decode((await shown()).removeprefix("whpk_"))
    assert raw == webhook_key(PERMIT_KEY).public_key().public_bytes_raw()
    assert raw != PERMIT_KEY.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"url": "http://hooks.example.com", "events": ["run.ended"]}, "https"),
        ({"url": "https://user:secret@hooks.example.com", "events": ["run.ended"]}, "user name"),
        ({"url": "ftp://hooks.example.com", "events": ["run.ended"]}, "http"),
        ({"url": "hooks.example.com", "events": ["run.ended"]}, "absolute"),
        ({"url": "https://hooks.example.com", "events": []}, "events"),
        ({"url": "https://hooks.example.com", "events": ["answer.delta"]}, "events"),
        ({"url": "https://hooks.example.com"}, "events"),
    ],
)
async def test_a_webhook_that_could_not_be_told_is_refused(tenant: Tenant, body: dict[str, Any], named: str) -> None:
    refused = problem(await tenant.owner.post("/v1/webhooks", json=body), 422, "request.invalid")
    assert named in refused["detail"]
    assert (await tenant.owner.get("/v1/webhooks")).json()["items"] == []


async def test_only_owners_and_admins_change_webhooks_and_there_is_a_bound(tenant: Tenant) -> None:
    body = {"url": "https://hooks.example.com", "events": ["run.ended", "run.ended", "hold.unknown"]}
    made = await tenant.owner.post("/v1/webhooks", json=body, headers={"idempotency-key": "a"})
    again = await tenant.owner.post("/v1/webhooks", json=body, headers={"idempotency-key": "a"})
    assert made.json() == again.json()
    assert made.json()["events"] == ["hold.unknown", "run.ended"]
    webhook_id = made.json()["webhook_id"]
    reader = await tenant.as_user("reader", "auditor")
    assert (await reader.get("/v1/webhooks")).json()["items"] == [made.json()]
    for method, path in (("POST", ""), ("DELETE", f"/{webhook_id}"), ("POST", f"/{webhook_id}/test")):
        problem(
            await reader.request(method, f"/v1/webhooks{path}", json=body if not path else None),
            403,
            "auth.not_permitted",
        )
    for _ in range(19):
        assert (await tenant.owner.post("/v1/webhooks", json=body)).status_code == 201
    problem(await tenant.owner.post("/v1/webhooks", json=body), 409, "resource.conflict")
    assert (await tenant.owner.delete(f"/v1/webhooks/{webhook_id}")).status_code == 204
    problem(await tenant.owner.delete(f"/v1/webhooks/{webhook_id}"), 404, "resource.not_found")
    listed = (await tenant.owner.get("/v1/decisions", params={"kind": "config", "limit": 3})).json()["items"]
    assert "webhook.removed" in {one["reason_codes"][0] for one in listed}


async def test_the_schema_tells_the_same_events_as_the_program(world: World) -> None:
    condition = await world.value("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'queue_webhooks'")
    assert {part for part in condition.split("'") if "." in part and " " not in part} == set(EVENTS)
