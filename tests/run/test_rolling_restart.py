"""Every process restarted, one after the other, while runs go on: none of them fails, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from cli.stack.ports import Ports
from sdk import Event, Holdfast
from tests.workers.processes import Running, running

from .harness import Rig, Run, Tenant, mail, refund, say, task, until
from .rigs import running_rig
from .test_log_lines import api_key

CLIENTS: Final = 3
# As in production: nothing here is to be found dead, so nothing has to be found soon.
PATIENT: Final = {
    "HOLDFAST_HEARTBEAT_TIMEOUT_MS": "10000",
    "HOLDFAST_LEASE_TOOL_MS": "60000",
    "HOLDFAST_LEASE_LLM_MS": "60000",
}


@pytest.fixture(scope="module")
async def standing_rig() -> AsyncIterator[Rig]:
    async with running_rig(more_parts=("api", "bootstrap"), environment=PATIENT, executors=2) as rig:
        yield rig


@dataclass(slots=True)
class Second:
    """One more process of a kind, beside the one that the stack has."""

    module: str
    env: Mapping[str, str]
    log: Path
    now: Running | None = None
    ends: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        self.now = await self.ends.enter_async_context(running(self.module, self.env, self.log))
        await self.now.until_event("ready")

    async def restart(self) -> None:
        assert self.now is not None
        assert await self.now.stop() == 0, self.log.read_text()[-2_000:]
        await self.ends.aclose()
        await self.start()


@asynccontextmanager
async def seconds(rig: Rig, folder: Path) -> AsyncIterator[tuple[Second, Second, str]]:
    """A second governor and a second API, and where that listens."""
    port = Ports.free().api
    governor = Second("workers.governor", rig.stack.env_for("governor"), folder / "governor-2.log")
    api = Second("api", {**rig.stack.env_for("api"), "HOLDFAST_API_PORT": str(port)}, folder / "api-2.log")
    async with governor.ends, api.ends:
        await asyncio.gather(governor.start(), api.start())
        yield governor, api, f"http://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Done:
    """A run as its client has seen it."""

    token: str
    run_id: str
    status: str
    events: list[Event]


class Load:
    """Clients that start run after run, follow each to its end, and know nothing of restarts but what the SDK does about them."""

    def __init__(self, urls: list[str], key: str, agent: str) -> None:
        self._urls, self._key, self._agent = urls, key, agent
        self._enough = False
        self.done: list[Done] = []

    def _client(self, number: int) -> None:
        with Holdfast(self._urls[number % len(self._urls)], self._key) as client:
            count = 0
            while not self._enough:
                count += 1
                token = f"rolling-{secrets.token_hex(4)}-{number}-{count}"
                script = task(mail(token), refund(token.upper()), say("done"), words=token)
                created = client.create_run(self._agent, script)
                events = list(client.events(created.run_id))
                self.done.append(Done(token, created.run_id, client.run(created.run_id).status, events))

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Runs it while the block does, and to the end of the runs that were begun."""
        clients = [asyncio.create_task(asyncio.to_thread(self._client, number)) for number in range(CLIENTS)]
        try:
            yield
        finally:
            self._enough = True
            await asyncio.gather(*clients)

    async def some_more(self) -> None:
        """Waits for runs that began after now: with every restart some begin, some go on, and some end."""
        before = len(self.done)

        async def more() -> bool:
            return len(self.done) >= before + CLIENTS + 1

        await until(more, within_s=120.0, what="more runs")


async def load_of(rig: Rig, tenant: Tenant, *urls: str) -> Load:
    first = await tenant.start(task(say("warm")))
    await first.ended()
    key = await api_key(rig, tenant)
    agent = await rig.value("SELECT agent_name FROM runs WHERE run_id = $1", first.run_id)
    return Load([rig.stack.urls.api, *urls], key, agent)


async def check(rig: Rig, tenant: Tenant, load: Load) -> None:
    """Every run has succeeded, with one mail and one refund; every hold is settled, no money is held; no event is missing."""
    assert len(load.done) > CLIENTS
    for done in load.done:
        run = Run(tenant, UUID(done.run_id))
        story = await run.story()
        assert (await run.ended(), done.status) == ("succeeded", "succeeded"), story
        await run.settled()
        assert (len(rig.mails(done.token)), len(rig.refunds(done.token.upper()))) == (1, 1), story
        durable = [event.seq for event in done.events if event.durable]
        assert durable == list(range(1, len(durable) + 1)), story
        assert done.events[-1].type == "run.ended"
    assert not await rig.value("SELECT sum(reserved) FROM caps WHERE tenant_id = $1", tenant.tenant_id)
    assert not await rig.value(
        "SELECT count(*) FROM holds WHERE tenant_id = $1 AND state NOT IN ('committed', 'voided')", tenant.tenant_id
    )


async def restart_child(rig: Rig, name: str) -> None:
    await rig.stack.stop_child(name)
    assert rig.stack.child(name).exit_code == 0, rig.log(name)[-2_000:]
    await rig.stack.start_child(name)


async def test_two_of_each_restarted_one_after_the_other_fail_no_run(rig: Rig, tenant: Tenant, tmp_path: Path) -> None:
    async with seconds(rig, tmp_path) as (governor, api, api_url):
        load = await load_of(rig, tenant, api_url)

        def child(name: str) -> Callable[[], Awaitable[None]]:
            return lambda: restart_child(rig, name)

        async with load.going_on():
            for restart in (
                child("governor"),
                governor.restart,
                child("executor-1"),
                child("executor-2"),
                child("api"),
                api.restart,
            ):
                await load.some_more()
                await restart()
            await load.some_more()
        await check(rig, tenant, load)


async def test_one_of_each_restarted_one_after_the_other_fail_no_run(rig: Rig, tenant: Tenant) -> None:
    """On one machine with one of each, work stands still meanwhile, and clients wait."""
    await rig.stack.stop_child("executor-2")
    try:
        load = await load_of(rig, tenant)
        async with load.going_on():
            for name in ("governor", "executor-1", "api", "valkey", "temporal", "postgres"):
                await load.some_more()
                await restart_child(rig, name)
            await load.some_more()
        await check(rig, tenant, load)
    finally:
        rig.restart("executor-2")
