"""A whole stack for the matrix: governors and executors that are killed at places of an action's way, and a provider that lies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from cli.stack.supervisor import Stack
from holdfast.codec import data_converter
from holdfast.database.engine import create_engine
from holdfast.database.roles import PROCESS_ROLES
from holdfast.settings import read_key_file
from holdfast.vault import Vault

PLACES: Final = (
    "redeem.before:llm.call",
    "execute.after_outward:llm.call",
    "execute.in_stream:llm.call",
    "outcome.after:llm.call",
)
_EXECUTORS: Final = 4
_ROOT: Final = Path(__file__).parents[2]
_TUNING: Final = {
    "HOLDFAST_HEARTBEAT_TIMEOUT_MS": "3000",
    "HOLDFAST_LEASE_LLM_MS": "60000",
    "HOLDFAST_SWEEP_INTERVAL_MS": "200",
    "HOLDFAST_UNKNOWN_DEADLINE_MS": "1000",
}


@dataclass(slots=True)
class Theatre:
    """See the module."""

    stack: Stack
    client: Client
    superuser: asyncpg.Pool
    provider: httpx.AsyncClient
    engines: dict[str, AsyncEngine]
    vault: Vault
    points: Path
    kills: int = 0
    up: int = _EXECUTORS
    second_governor: asyncio.subprocess.Process | None = None
    _restarts: list[asyncio.Task[None]] = field(default_factory=list)

    # Processes ------------------------------------------------------------------------------------------------------

    async def staff(self, count: int) -> None:
        """Sees to it that so many executors run, and where there are to be several, two governors."""
        names = [f"executor-{number + 1}" for number in range(_EXECUTORS)]
        await asyncio.gather(
            *(self.stack.start_child(name) for name in names[self.up : count]),
            *(self.stack.stop_child(name) for name in names[count : self.up]),
        )
        self.up = count
        if count > 1 and self.second_governor is None:
            self.second_governor = await self._start_governor()

    async def _start_governor(self) -> asyncio.subprocess.Process:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.stack.env_for("governor")}
        log = self.stack.folder.logs / "governor-2.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "workers.governor", cwd=_ROOT, env=environment, stdout=output, stderr=output
            )
        while '"ready"' not in log.read_text():
            if process.returncode is not None:
                raise RuntimeError(f"the second governor ended: {log.read_text()[-500:]}")
            await asyncio.sleep(0.05)
        return process

    async def kill_executors(self) -> None:
        """Kills every executor with -9, and starts them again."""
        names = [f"executor-{number + 1}" for number in range(self.up)]
        await asyncio.gather(*(self.stack.kill(name, signal.SIGKILL, restart=False) for name in names))
        self.kills += len(names)
        self.release()
        await asyncio.gather(*(self.stack.start_child(name) for name in names))

    # Places ---------------------------------------------------------------------------------------------------------

    def _marker(self, place: str) -> Path:
        return self.points / place.replace(":", "-")

    def park(self, place: str) -> None:
        """Everybody who comes by waits there."""
        self._marker(place).mkdir()

    def parked(self, place: str) -> int:
        """How many wait there."""
        return sum(1 for _ in self._marker(place).glob("*"))

    def release(self) -> None:
        """Lets everybody go on, and nobody wait any more."""
        for place in PLACES:
            folder = self._marker(place)
            if folder.exists():
                # renamed first, so that nobody comes in between
                gone = folder.rename(folder.with_name(f"{folder.name}.{time.monotonic_ns()}"))
                for ticket in gone.glob("*"):
                    ticket.unlink(missing_ok=True)
                gone.rmdir()

    # The provider ---------------------------------------------------------------------------------------------------

    async def lie(self, faults: Sequence[dict[str, object]]) -> None:
        """Orders lies of the provider."""
        if faults:
            (await self.provider.post("/control/faults", json=list(faults))).raise_for_status()

    async def calls(self) -> list[Any]:  # JSON
        """Returns what the provider has received and billed."""
        calls: list[Any] = (await self.provider.get("/control/calls")).json()["calls"]
        return calls


@asynccontextmanager
async def open_theatre() -> AsyncIterator[Theatre]:
    """Brings everything up for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="holdfast-matrix-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # noqa: S103, PTH101 (PostgreSQL runs under another account when root calls this)
        points = folder / "points"
        points.mkdir()
        failpoints = ",".join(f"{place}=park@{points / place.replace(':', '-')}" for place in PLACES)
        shared = {"HOLDFAST_FAILPOINTS": failpoints, "HOLDFAST_PRELOADED_PROVIDERS": "anthropic"}
        stack = Stack(
            folder / "data",
            ports="free",
            parts={"postgres", "valkey", "temporal", "migrations", "provider", "governor", "executor"},
            executors=_EXECUTORS,
            provider="simulated",
            brain="bench.matrix.brain:answer",
            headless=True,
            extra_env={"governor": _TUNING, "executor": shared, "provider": {"PYTHONPATH": str(_ROOT)}},
        )
        async with (
            stack,
            httpx.AsyncClient(base_url=stack.urls.provider, trust_env=False, timeout=30) as provider,
            asyncpg.create_pool(stack.superuser_url, min_size=1, max_size=6) as superuser,
        ):
            client = await Client.connect(
                stack.urls.temporal,
                namespace=stack.env_for("api")["HOLDFAST_TEMPORAL_NAMESPACE"],
                data_converter=data_converter(read_key_file(stack.secrets.codec_key_file)),
            )
            engines = {
                role: create_engine(stack.database_url(role), process="matrix", pool_size=8) for role in PROCESS_ROLES
            }
            vault = Vault(read_key_file(stack.secrets.vault_key_file))
            theatre = Theatre(stack, client, superuser, provider, engines, vault, points)
            try:
                yield theatre
            finally:
                theatre.release()
                if theatre.second_governor is not None and theatre.second_governor.returncode is None:
                    theatre.second_governor.terminate()
                    await theatre.second_governor.wait()
                for engine in engines.values():
                    await engine.dispose()
