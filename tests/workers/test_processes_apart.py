"""Governor and broker as processes apart: each starts with its own settings alone, and one governor sweeps at a time."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.stack.ports import Ports
from cli.stack.supervisor import Stack
from holdfast.settings import read_key_file
from tests.stack.places import until
from tests.workers.processes import broker, governor, running
from workers.sweepers import LOCK_KEY


async def test_a_broker_needs_no_signing_key_and_serves_until_it_is_stopped(servers: Stack, tmp_path: Path) -> None:
    port = Ports.free().broker
    env = broker(servers, port) | {"HOLDFAST_BROKER_HOTS": "0.0.0.0"}
    private = read_key_file(servers.secrets.permit_key_file)
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    assert read_key_file(Path(env["HOLDFAST_PERMIT_PUBLIC_KEY_FILE"])) == public
    async with running("workers.broker", env, tmp_path / "log") as one:
        await one.until_event("ready")
        assert one.events("setting.unknown") == 1, "a misspelt setting is warned of"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            assert (await http.get("/healthz")).json() == {"status": "ok"}
            body = {"permit": "forged", "workflow_id": "w", "activity_type": "execute_tool_call"}
            refused = await http.post("/redeem", json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "permit.invalid")
            assert (await http.get("/vault")).status_code == 401
        assert await one.stop() == 0


async def test_a_broker_whose_port_is_taken_says_so(servers: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running("workers.broker", broker(servers, port), tmp_path / "log") as one:
            assert await asyncio.wait_for(one.process.wait(), 180) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in one.log.read_text()
    assert "Traceback" not in one.log.read_text()


@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("workers.governor", ("HOLDFAST_VAULT_KEY_FILE", "HOLDFAST_BROKER_DATABASE_URL")),
        ("workers.broker", ("HOLDFAST_PERMIT_KEY_FILE", "HOLDFAST_GOVERNOR_DATABASE_URL", "HOLDFAST_CODEC_KEY_FILE")),
    ],
)
async def test_a_process_asks_for_nothing_that_belongs_to_another(
    module: str, foreign: tuple[str, ...], tmp_path: Path
) -> None:
    async with running(module, {}, tmp_path / "log") as one:
        assert await asyncio.wait_for(one.process.wait(), 180) == 2
    said = one.log.read_text()
    assert "DATABASE_URL" in said
    assert not [name for name in foreign if name in said]


async def test_of_several_governors_one_sweeps_and_another_takes_over(servers: Stack, tmp_path: Path) -> None:
    """LAW 4: two sweepers would settle twice but for the transaction; none would settle never."""
    async with AsyncExitStack() as stack:
        several = [
            await stack.enter_async_context(running("workers.governor", governor(servers), tmp_path / f"log-{n}"))
            for n in range(3)
        ]
        await asyncio.gather(*(one.until_event("ready") for one in several))
        database = await asyncpg.connect(servers.superuser_url)
        stack.push_async_callback(database.close)
        await until(lambda: sum(one.events("sweepers.elected") for one in several) == 1, what="an election")
        first = next(one for one in several if one.events("sweepers.elected"))
        others = [one for one in several if one is not first]
        assert await _holders(database) == 1
        await first.stop(signal.SIGKILL)
        await until(lambda: sum(one.events("sweepers.elected") for one in others) == 1, what="another election")
        assert await _holders(database) == 1
        second = next(one for one in others if one.events("sweepers.elected"))
        # one that is stopped gives the place back at once, and says how it ended
        assert await second.stop() == 0
        (third,) = (one for one in others if one is not second)
        await third.until_event("sweepers.elected")
        assert await third.stop() == 0


async def _holders(database: asyncpg.Connection) -> int:
    found: int = await database.fetchval(
        """SELECT count(*) FROM pg_locks
           WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1""",
        LOCK_KEY,
    )
    return found
