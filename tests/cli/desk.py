"""A tenant in a live stack, short ways to run commands against it, and runs that play a script."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from cli.main import app
from cli.stack.data_folder import write_atomically
from cli.stack.supervisor import Stack
from demo.refund_desk.world.servers import World
from sdk import Approval, Decision, Hold, Holdfast
from tests.stack.places import ROOT

HELPER: Final = """\
role helper {
  permit llm.call as "think"
  permit tools, http.request as "tools"
  gate "big-refund": payments.refund needs 1 of role("approver"), expires 1d because "refunds need a word"
}
"""
AGENT: dict[str, Any] = {
    "role": "helper",
    "instructions": "You help.",
    "model": {"wire": "anthropic", "name": "claude-haiku-4-5"},
    "max_tokens": 512,
    "tools": ["mail.list", "mail.send", "payments.refund"],
}
LETTER = {"to": ["jo@customer.example"], "subject": "Hello", "body": "Hello"}


def refund(order_id: str) -> dict[str, Any]:
    """A step of a script: the model proposes a refund, which waits at the gate."""
    return {
        "tool": "payments.refund",
        "arguments": {"order_id": order_id, "amount_usd_cents": 1250, "reason": "broken"},
    }


def please(*script: dict[str, Any]) -> str:
    """An input on which the simulated model plays a script."""
    return f"please\n#!script {json.dumps(list(script))}"


async def until(condition: Callable[[], Awaitable[object]], *, within_s: float = 90.0, what: str = "it") -> None:
    """Polls until something is so."""
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come to be within {within_s:g} s"
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended in a process of its own."""

    exit_code: int
    stdout: str
    stderr: str


async def _apart(*args: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *args, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())


@dataclass(slots=True)
class Desk:
    """One tenant: its owner, and alice, who may consent. Executors find what is installed into `packages`."""

    stack: Stack
    world: World
    owner: Holdfast
    alice: Holdfast
    packages: Path

    @property
    def data(self) -> Path:
        return self.stack.folder.path

    def key_file(self, user: str) -> Path:
        return self.data / f"{user}.key"

    def close(self) -> None:
        self.owner.close()
        self.alice.close()

    async def holdfast(self, *args: str, user: str = "owner", text: str = "") -> Result:
        """Runs a command as a user, with text on its standard input."""
        command = [*args, "--data-dir", str(self.data), "--key-file", str(self.key_file(user))]
        return await self.bare(*command, text=text)

    async def bare(self, *args: str, text: str = "") -> Result:
        """Runs a command as it stands; in a thread, for it may have an event loop of its own."""
        environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
        return await asyncio.to_thread(CliRunner().invoke, app, list(args), input=text, env=environment)

    def apart(self, *args: str, user: str = "owner") -> asyncio.Task[Done]:
        """Runs a command in a process of its own, beside what the test does meanwhile."""
        where = () if "--url" in args else ("--data-dir", str(self.data))
        return asyncio.create_task(_apart(*args, *where, "--key-file", str(self.key_file(user))))

    async def answer(self, *args: str, user: str = "owner", text: str = "") -> Any:
        """Runs a command with --json and returns what it printed."""
        done = await self.holdfast(*args, "--json", user=user, text=text)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def answer_bare(self, *args: str) -> Any:
        """The same for a command that needs no server."""
        done = await self.bare(*args, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def start(self, *script: dict[str, Any], agent: str = "helper") -> str:
        """Starts a run whose model plays a script."""
        return (await asyncio.to_thread(self.owner.create_run, agent, please(*script))).run_id

    async def ended(self, run_id: str) -> str:
        """Waits until a run has ended and returns its status."""
        run = await asyncio.to_thread(self.owner.wait_for_run, run_id, timeout_s=90)
        assert run.ended_at is not None, run
        return run.status

    async def put_away(self, run_id: str) -> None:
        """Waits until an ended run's history is stored: that is its last decision, which a sweeper makes some time after the end."""

        async def stored() -> list[Decision]:
            return await asyncio.to_thread(self.owner.decisions, run_id=run_id, kind="run.history", count=1)

        await until(stored, what="the digest of the run's history")

    async def asked(self, run_id: str) -> Approval:
        """Waits until a run asks for consent."""

        async def waits() -> list[Approval]:
            return await asyncio.to_thread(self.owner.approvals, state="pending", run_id=run_id)

        await until(waits, what="the approval")
        return (await waits())[0]

    async def asked_of(self, order: str) -> Approval:
        """Waits until somebody's run asks for consent to refund an order."""

        async def found() -> list[Approval]:
            waiting = await asyncio.to_thread(self.owner.approvals, state="pending")
            return [one for one in waiting if one.action["args"].get("order_id") == order]

        await until(found, what=f"the approval for {order}")
        return (await found())[0]

    async def unknown(self, run_id: str) -> Hold:
        """Waits until a hold of a run is unknown."""

        async def found() -> list[Hold]:
            return await asyncio.to_thread(self.owner.holds, state="unknown", run_id=run_id)

        await until(found, what="the unknown hold")
        return (await found())[0]


async def move_in(stack: Stack, world: World, packages: Path) -> Desk:
    """Makes the tenant; its credentials are left to the tests of the vault."""
    return await asyncio.to_thread(_move_in, stack, world, packages)


def _move_in(stack: Stack, world: World, packages: Path) -> Desk:
    keys = json.loads(stack.secrets.bootstrap_key_file.read_text(encoding="utf-8"))
    with Holdfast(stack.urls.api, keys["operator_key"]) as operator:
        tenant = operator.create_tenant("desk", "Desk")
    owner = Holdfast(stack.urls.api, tenant.key.key)
    owner.create_user("alice")
    alice = owner.create_key("alice", "default", ["approver"]).key
    desk = Desk(stack, world, owner, Holdfast(stack.urls.api, alice), packages)
    for user, key in (("owner", tenant.key.key), ("alice", alice)):
        write_atomically(desk.key_file(user), key + "\n")
    owner.set_cap("tenant", limit_usd="5", reason="tests")
    owner.put_role("helper", HELPER)
    owner.put_agent("helper", AGENT)
    owner.put_agent("forgetful", {**AGENT, "limits": {"steps_per_execution": 2}})
    owner.put_agent("brief", {**AGENT, "limits": {"max_steps": 1}})
    owner.put_credential(
        "provider.anthropic", {"api_key": "simulated", "base_url": stack.urls.provider, "simulated": True}
    )
    for name, credential in world.credentials().items():
        owner.put_credential(name, credential)
    return desk
