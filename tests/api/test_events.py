"""Event streams: nothing lost, nothing doubled, in one order; over restarts, without Redis, with clients that are slow or gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.timeline.follow import Follower, Position, StreamEvent
from holdfast.timeline.stream import Publisher, connect_redis, stream_key

from .sse import check_order, collect, events, key, take
from .world import Tenant, World, problem, running_api, settings_for, start_api, until


@pytest.fixture(autouse=True)
def _redis_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not durable is dropped where Redis takes a second for it: here nothing is, however busy the machine."""
    monkeypatch.setattr("holdfast.timeline.stream._WRITE_TIMEOUT_S", 60.0)


async def delta(tenant: Tenant, run_id: str, text: str, channel: str = "answer") -> None:
    await tenant.world.api.parts.publisher.delta(tenant.tenant_id, UUID(run_id), channel, "text", {"text": text})


async def test_durable_and_live_events_come_in_one_order_and_end_with_the_run(tenant: Tenant) -> None:
    run_id = await tenant.run()
    reading = asyncio.create_task(collect(tenant.owner, run_id))
    await tenant.append(run_id, "step.began")
    for text in ("Hel", "lo"):
        await delta(tenant, run_id, text)
    await tenant.append(run_id, "answer.done")
    await tenant.end(run_id)
    got = await reading
    check_order(got)
    assert [event["type"] for event in got] == ["run.created", "step.began", "text", "text", "answer.done", "run.ended"]
    assert [event["id"] for event in got] == ["1", "2", "2.1", "2.2", "3", "4"]
    assert set(got[0]) == {"id", "seq", "run", "time", "channel", "type", "data"}
    assert got[2]["data"] == {"text": "Hel"}
    assert await collect(tenant.owner, run_id, last_id="4") == []
    again = await collect(tenant.owner, run_id, last_id="2.1")
    assert [event["id"] for event in again] == ["2.2", "3", "4"]
    assert [event["id"] for event in await collect(tenant.owner, run_id, after="3")] == ["4"]


async def test_an_ended_run_tells_browsers_to_stop_asking(tenant: Tenant) -> None:
    run_id = await tenant.run()
    await tenant.end(run_id)
    answer = await tenant.owner.get(f"/v1/runs/{run_id}/events", headers={"last-event-id": "2"})
    assert answer.status_code == 204


@pytest.mark.parametrize("last_id", ["x", "-1", "1.0", "1.2.3", "01", "9" * 16, "1.9999999999", "99"])
async def test_an_id_that_was_never_sent_is_refused_and_breaks_nothing(tenant: Tenant, last_id: str) -> None:
    run_id = await tenant.run()
    answer = await tenant.owner.get(f"/v1/runs/{run_id}/events", headers={"last-event-id": last_id})
    problem(answer, 422, "request.invalid")
    await delta(tenant, run_id, "a")
    await tenant.end(run_id)
    assert [event["id"] for event in await collect(tenant.owner, run_id)][-1] == "2"


async def test_channels_filter_but_never_the_end(tenant: Tenant) -> None:
    run_id = await tenant.run()
    await delta(tenant, run_id, "hm", "thinking")
    await delta(tenant, run_id, "ah", "answer")
    await tenant.world.api.parts.publisher.attempt_reset(tenant.tenant_id, UUID(run_id), 1, 2)
    await tenant.append(run_id, "decision.made", channel="decision")
    await tenant.end(run_id)
    got = await collect(tenant.owner, run_id, channels="answer,decision")
    assert [event["type"] for event in got] == ["text", "attempt_reset", "decision.made", "run.ended"]


async def test_a_lost_poke_delays_and_loses_nothing(tenant: Tenant) -> None:
    run_id = await tenant.run()
    reading = asyncio.create_task(collect(tenant.owner, run_id))
    await tenant.append(run_id, "silent", poke=False)
    await delta(tenant, run_id, "in between")
    await tenant.end(run_id, poke=False)
    got = await reading
    check_order(got)
    assert [event["type"] for event in got if key(event)[1] == 0] == ["run.created", "silent", "run.ended"]


async def test_after_redis_lost_everything_the_stream_goes_on(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    await tenant.append(run_id, "one", "two")
    await delta(tenant, run_id, "a")
    first = await take(tenant.owner, run_id, 4)
    assert first[-1]["id"] == "3.1"
    await world.api.parts.redis.delete(stream_key(tenant.tenant_id, UUID(run_id)))
    reading = asyncio.create_task(collect(tenant.owner, run_id, last_id="3.1"))
    redis = world.api.parts.redis

    async def is_fenced() -> bool:
        return bool(await redis.exists(stream_key(tenant.tenant_id, UUID(run_id))))

    await until(is_fenced)
    await delta(tenant, run_id, "b")
    await tenant.end(run_id)
    rest = await reading
    assert [event["id"] for event in rest] == ["3.2", "4"]


async def test_trimmed_live_events_are_announced(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    for text in "abcdef":
        await delta(tenant, run_id, text)
    await world.api.parts.redis.xtrim(stream_key(tenant.tenant_id, UUID(run_id)), maxlen=2, approximate=False)
    await tenant.end(run_id)
    got = await collect(tenant.owner, run_id)
    check_order(got)
    gap = next(event for event in got if event["type"] == "stream.gap")
    assert (gap["id"], gap["data"]) == ("1.4", {"after": "1", "missed": 4})


async def test_with_redis_away_durable_events_still_come_and_writes_never_fail(tenant: Tenant, world: World) -> None:
    away = settings_for(world.stack, redis_url="redis://127.0.0.1:9/0")
    async with running_api(away) as api, api.client(tenant.keys["owner"]) as client:
        admitted = await client.post("/v1/runs", json={"agent": "desk", "input": "x"})
        assert admitted.status_code == 201
        run_id = admitted.json()["run_id"]
        reading = asyncio.create_task(collect(client, run_id))
        await tenant.append(run_id, "one", poke=False)
        await tenant.end(run_id, poke=False)
        got = await reading
        assert [event["id"] for event in got] == ["1", "2", "3"]

        async def ready_without_redis() -> bool:
            states = (await client.get("/readyz")).json()
            return (states["ready"], states["redis"]) == (True, "unavailable")

        await until(ready_without_redis)


async def test_streams_survive_a_restart_of_redis(tenant: Tenant, world: World) -> None:
    run_id = await tenant.run()
    reading = asyncio.create_task(collect(tenant.owner, run_id))
    await delta(tenant, run_id, "before")
    await world.stack.kill("valkey", signal.SIGKILL)
    await tenant.append(run_id, "while.away")
    await world.stack.wait_ready("valkey")
    await tenant.append(run_id, "back")

    async def written() -> bool:
        await delta(tenant, run_id, "after")
        stream = await world.api.parts.redis.xlen(stream_key(tenant.tenant_id, UUID(run_id)))
        return bool(stream)

    await until(written)
    await tenant.end(run_id)
    got = await reading
    check_order(got)
    durable = [event["type"] for event in got if key(event)[1] == 0]
    assert durable == ["run.created", "while.away", "back", "run.ended"]


async def test_a_restarted_api_ends_streams_and_clients_resume(tenant: Tenant, world: World) -> None:
    api = await start_api(
        settings_for(world.stack), grace_ms=300_000
    )  # if it waited for streams, it would wait for long
    run_id = await tenant.run()
    got = []
    async with api.client(tenant.keys["owner"]) as client:

        async def follow() -> None:
            async for event in events(client, run_id):
                got.append(event)

        reading = asyncio.create_task(follow())
        await tenant.append(run_id, "one")
        await delta(tenant, run_id, "a")

        async def three() -> bool:
            return len(got) == 3

        await until(three)
        await asyncio.wait_for(api.stop(), 60)
        with contextlib.suppress(Exception):
            await reading
    await delta(tenant, run_id, "b")
    await tenant.append(run_id, "two")
    api = await start_api(settings_for(world.stack))
    await tenant.end(run_id)
    async with api.client(tenant.keys["owner"]) as client:
        got += await collect(client, run_id, last_id=got[-1]["id"])
    await api.stop()
    check_order(got)
    assert [event["id"] for event in got] == ["1", "2", "2.1", "2.2", "3", "4"]


async def test_many_clients_see_the_same(tenant: Tenant) -> None:
    run_id = await tenant.run()
    readers = [asyncio.create_task(collect(tenant.owner, run_id)) for _ in range(15)]
    for step in range(10):
        await tenant.append(run_id, f"step.{step}", poke=step % 3 > 0)
        await asyncio.gather(*(delta(tenant, run_id, str(n)) for n in range(5)))
    await tenant.end(run_id)
    seen = await asyncio.gather(*readers)
    for got in seen:
        check_order(got)
        assert len([event for event in got if key(event)[1] == 0]) == 12
        assert [event["id"] for event in got] == [event["id"] for event in seen[0]]


async def test_more_live_events_than_a_page_come_before_what_follows_them(tenant: Tenant) -> None:
    run_id = await tenant.run()
    for n in range(1_200):
        await delta(tenant, run_id, str(n))
    await tenant.append(run_id, "after.all")
    await tenant.end(run_id)
    got = await collect(tenant.owner, run_id)
    check_order(got)
    assert [event["data"]["text"] for event in got if event["type"] == "text"] == [str(n) for n in range(1_200)]


async def test_a_client_that_takes_nothing_is_dropped_and_resumes(
    tenant: Tenant, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.event_stream.WRITE_TIMEOUT_S", 0.5)
    run_id = await tenant.run()
    parts = world.api.parts
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", world.api.server.port))
    request = (
        f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.keys['owner']}\r\n\r\n"
    )
    await loop.sock_sendall(connection, request.encode())
    received = (await loop.sock_recv(connection, 2_000)).decode()
    assert "200 OK" in received

    async def is_served() -> bool:
        return parts.streams == 1

    async def is_dropped() -> bool:
        await delta(tenant, run_id, "x" * 200_000)
        return parts.streams == 0

    await until(is_served)
    await until(is_dropped)  # and the run was never slowed: each delta was taken at once
    connection.close()
    await tenant.end(run_id)
    got = await collect(tenant.owner, run_id)
    check_order(got)
    assert got[-1]["type"] == "run.ended"


@dataclass
class Reader:
    """A client that comes and goes."""

    got: list[StreamEvent] = field(default_factory=list)

    @property
    def position(self) -> Position:
        return self.got[-1].position if self.got else Position()


ACTS = st.lists(
    st.sampled_from(
        ["append", "append unannounced", "delta", "deltas", "late poke", "read some", "read rest", "lose redis"]
    ),
    min_size=5,
    max_size=40,
)


@given(acts=ACTS, take_counts=st.lists(st.integers(1, 6), min_size=40, max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_interleaving_is_read_in_order_without_loss_or_doubling(
    tenant: Tenant, world: World, acts: list[str], take_counts: list[int]
) -> None:
    """Two readers follow at random moments, with reconnects; both must end with the same durable log and strict order."""
    run_id = UUID(await tenant.run())
    redis = connect_redis(world.stack.urls.redis)
    publisher = Publisher(redis)
    readers = [Reader(), Reader()]
    sent: list[str] = []
    redis_lost = False
    newest = 1

    async def read(reader: Reader, count: int | None) -> None:
        follower = Follower(
            world.engine("api"), redis, tenant.tenant_id, run_id, reader.position, poll_ms=20, heartbeat_ms=1
        )
        stream = follower.events()
        async for event in stream:
            if event is None:
                break
            reader.got.append(event)
            if count is not None:
                count -= 1
                if count == 0:
                    break
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator has it

    for number, act in enumerate(acts):
        if act.startswith("append"):
            newest = await tenant.append(str(run_id), f"e{number}", poke=False)
            if act == "append":
                await publisher.poke(tenant.tenant_id, run_id, newest)
        elif act.startswith("delta"):
            for piece in range(3 if act == "deltas" else 1):
                text = f"d{number}.{piece}"
                sent.append(text)
                await publisher.delta(tenant.tenant_id, run_id, "answer", "text", {"text": text})
        elif act == "late poke":
            await publisher.poke(tenant.tenant_id, run_id, max(newest - 1, 1))
        elif act == "lose redis":
            redis_lost = True
            await redis.delete(stream_key(tenant.tenant_id, run_id))
        else:
            await read(readers[number % 2], take_counts[number] if act == "read some" else None)
    await tenant.end(str(run_id))
    for reader in readers:
        await read(reader, None)
    await redis.aclose()
    for reader in readers:
        places = [event.position for event in reader.got]
        assert places == sorted(set(places)), places
        assert [place.seq for place in places if place.n == 0] == list(range(1, newest + 2))
        texts = [str(event.data["text"]) for event in reader.got if event.type == "text"]
        assert len(texts) == len(set(texts)), "a piece came twice"
        assert texts == [text for text in sent if text in set(texts)], "pieces came in another order"
        if not redis_lost:
            assert texts == sent, "a piece was lost"
