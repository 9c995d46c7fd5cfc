"""Processes of Holdfast apart from any stack: with exactly the settings that they are given."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.stack.supervisor import Stack
from tests.stack.places import ROOT, until

_DEATH_S = 120


@dataclass(slots=True)
class Running:
    """One process and what it has logged."""

    process: asyncio.subprocess.Process
    log: Path

    def events(self, name: str) -> int:
        """How many times it has logged this event."""
        whole = self.log.read_text().rpartition("\n")[0]  # the last line may be half written
        lines = (json.loads(line) for line in whole.split("\n") if line.startswith("{"))
        return sum(line["event"] == name for line in lines)

    async def until_event(self, name: str) -> None:
        """Waits until it has logged this event.

        Raises:
            AssertionError: It ended first.
        """

        def said() -> bool:
            assert self.process.returncode is None, self.log.read_text()
            return self.events(name) > 0

        await until(said, within_s=180.0, what=f"the event {name}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal and returns its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), _DEATH_S)


@asynccontextmanager
async def running(module: str, env: Mapping[str, str], log: Path) -> AsyncIterator[Running]:
    """Runs `python -m MODULE` with this environment only; it is dead when the block ends."""
    own = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=ROOT, env={**own, **env}, stdout=output, stderr=output
        )
    one = Running(process, log)
    try:
        yield one
    finally:
        if process.returncode is None:
            await one.stop(signal.SIGKILL)


def common(stack: Stack) -> dict[str, str]:
    """The settings of processes that take part in runs."""
    env = stack.env_for("api")
    names = ("REDIS_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "CODEC_KEY_FILE")
    return {f"HOLDFAST_{name}": env[f"HOLDFAST_{name}"] for name in names}


def governor(stack: Stack) -> dict[str, str]:
    """What a governor needs: nothing of the broker's."""
    return {
        **common(stack),
        "HOLDFAST_GOVERNOR_DATABASE_URL": stack.database_url("holdfast_governor"),
        "HOLDFAST_SWEEPER_DATABASE_URL": stack.database_url("holdfast_sweeper"),
        "HOLDFAST_PERMIT_KEY_FILE": str(stack.secrets.permit_key_file),
        "HOLDFAST_LOG_KEY_FILE": str(stack.secrets.log_key_file),
        "HOLDFAST_SWEEP_INTERVAL_MS": "50",
    }


def broker(stack: Stack, port: int) -> dict[str, str]:
    """What a broker needs: no key that signs, no Temporal, no Redis."""
    return {
        "HOLDFAST_BROKER_DATABASE_URL": stack.database_url("holdfast_broker"),
        "HOLDFAST_VAULT_KEY_FILE": str(stack.secrets.vault_key_file),
        "HOLDFAST_PERMIT_PUBLIC_KEY_FILE": str(stack.secrets.permit_public_key_file),
        "HOLDFAST_BROKER_PORT": str(port),
    }
