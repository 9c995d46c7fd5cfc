"""Tools from Python functions under the gate, and their executor killed or frozen in the middle of a call: nothing is done twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from holdfast.database.engine import transaction
from holdfast.settings import read_key_file
from holdfast.tools.functions import forms
from holdfast.tools.versions import put_tool
from holdfast.vault import Vault
from tests.tools.packages import install

from .harness import Rig, Run, Tenant, call, say, task, until

NAMES: Final = ("ledger.write", "ledger.enter")
SOURCE = '''
    import os, time
    from pathlib import Path

    from sdk.tools import ToolCall, tool


    def stand(folder, line, place):
        """Waits for as long as the test wants it to."""
        marker = folder / f"{line}.{place}"
        if marker.exists():
            (folder / f"{line}.{place}.pid").write_text(str(os.getpid()))
        while marker.exists():
            time.sleep(0.01)


    def write_down(call, line, already):
        folder = Path(call.credential["folder"])
        stand(folder, line, "before")
        call.begin()
        lines = folder / "lines"
        entry = f"{line} {call.idempotency_key}"
        if not already or not lines.exists() or entry not in lines.read_text().splitlines():
            with lines.open("a") as file:
                file.write(f"{entry}\\n")
        stand(folder, line, "after")
        return {"line": line, "tenant": call.tenant}


    @tool(name="ledger.write", external=True, idempotent=False, reversible=False, yields=(), credential="tool.ledger",
          timeout_ms=60000)
    def write(call: ToolCall, line: str) -> dict[str, str]:
        """Writes a line into the ledger."""
        return write_down(call, line, already=False)


    @tool(name="ledger.enter", external=True, idempotent=True, reversible=False, yields=(), credential="tool.ledger",
          timeout_ms=60000)
    def enter(call: ToolCall, line: str) -> dict[str, str]:
        """Writes a line into the ledger, unless it is there under this key."""
        return write_down(call, line, already=True)
'''


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the tools write into: the outside."""

    folder: Path

    def lines(self, line: str) -> list[str]:
        """What there is of that line."""
        path = self.folder / "lines"
        written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [one for one in written if one.startswith(f"{line} ")]

    def let_stand(self, line: str, place: str) -> None:
        (self.folder / f"{line}.{place}").touch()

    def let_go(self, line: str, place: str) -> None:
        (self.folder / f"{line}.{place}").unlink()

    async def until_stands(self, line: str, place: str) -> psutil.Process:
        """Waits until a call stands there, and returns its process."""
        mark = self.folder / f"{line}.{place}.pid"

        async def stands() -> bool:
            return mark.exists() and bool(mark.read_text(encoding="utf-8"))

        await until(stands, what=f"a call that stands {place} its effect")
        return psutil.Process(int(mark.read_text(encoding="utf-8")))


@pytest.fixture
async def ledger(rig: Rig, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The package is installed, the tenant has its tools and their credential."""
    rig.packages.mkdir(exist_ok=True)
    install(
        rig.packages, "ledger-tools", {"ledger_tools": SOURCE}, {name: f"ledger_tools:{name[7:]}" for name in NAMES}
    )
    monkeypatch.syspath_prepend(str(rig.packages))
    folder = rig.packages / tenant.slug
    folder.mkdir()
    folder.chmod(0o777)  # executors run under an account of their own
    async with transaction(rig.engine("api"), tenant.tenant_id) as connection:
        for name, form in forms({"source": "python", "names": list(NAMES)}, Path()).items():
            await put_tool(connection, tenant.tenant_id, name, form)
    vault = Vault(read_key_file(rig.stack.secrets.vault_key_file))
    async with transaction(rig.engine("broker"), tenant.tenant_id) as connection:
        await vault.put(connection, tenant.tenant_id, "tool.ledger", {"folder": str(folder)})
    return Ledger(folder)


async def start(tenant: Tenant, tool: str, line: str) -> Run:
    return await tenant.start(task(call(tool, line=line), say("done")), tools=NAMES)


async def until_gone(process: psutil.Process) -> None:
    async def gone() -> bool:
        try:
            return bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    await until(gone, within_s=45.0, what="the end of the call's process")


async def test_a_call_is_decided_executed_and_settled(tenant: Tenant, ledger: Ledger) -> None:
    run = await start(tenant, "ledger.write", "plain")
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    [hold] = await run.holds(tool="ledger.write")
    assert (hold["state"], hold["ok"], hold["cost_class"]) == ("committed", True, "known")
    assert hold["outward_at"] is not None
    key = f"{tenant.tenant_id}:{run.run_id}:2"
    assert ledger.lines("plain") == [f"plain {key}"], await run.story()


@pytest.mark.parametrize("tool", NAMES)
async def test_an_executor_killed_before_the_call_begins_costs_a_try(
    rig: Rig, tenant: Tenant, ledger: Ledger, tool: str
) -> None:
    ledger.let_stand("early", "before")
    run = await start(tenant, tool, "early")
    process = await ledger.until_stands("early", "before")
    await rig.kill("executor-1")
    await until_gone(process)
    assert ledger.lines("early") == []
    ledger.let_go("early", "before")
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    assert await run.states(tool=tool) == ["voided", "committed"], await run.story()
    assert len(ledger.lines("early")) == 1


async def test_an_executor_killed_after_the_call_began_leaves_a_question(
    rig: Rig, tenant: Tenant, ledger: Ledger
) -> None:
    ledger.let_stand("late", "after")
    run = await start(tenant, "ledger.write", "late")
    process = await ledger.until_stands("late", "after")
    await rig.kill("executor-1")
    await until_gone(process)
    hold_id = await run.until_hold("unknown", tool="ledger.write")
    await run.until_status("waiting")
    assert len(ledger.lines("late")) == 1
    await run.resolve(hold_id, happened=True)
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    assert await run.states(tool="ledger.write") == ["committed"], await run.story()
    assert len(ledger.lines("late")) == 1


async def test_what_is_idempotent_is_tried_again_under_the_same_key(rig: Rig, tenant: Tenant, ledger: Ledger) -> None:
    ledger.let_stand("again", "after")
    run = await start(tenant, "ledger.enter", "again")
    process = await ledger.until_stands("again", "after")
    await rig.kill("executor-1")
    await until_gone(process)
    ledger.let_go("again", "after")
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    assert (await run.states(tool="ledger.enter"))[-1] == "committed"
    assert len(ledger.lines("again")) == 1


@pytest.fixture
def _thawed(rig: Rig) -> Iterator[None]:
    pid = rig.pid("executor-1")
    yield
    os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("_thawed")
async def test_a_call_that_wants_to_begin_after_its_hold_was_settled_does_nothing(
    rig: Rig, tenant: Tenant, ledger: Ledger
) -> None:
    """The executor was frozen meanwhile, and the run has gone on without it."""
    ledger.let_stand("frozen", "before")
    run = await start(tenant, "ledger.write", "frozen")
    process = await ledger.until_stands("frozen", "before")
    os.kill(rig.pid("executor-1"), signal.SIGSTOP)
    await run.until_hold("voided", tool="ledger.write")
    ledger.let_go("frozen", "before")  # now it asks, and nobody answers
    await asyncio.sleep(0.2)
    assert ledger.lines("frozen") == []
    os.kill(rig.pid("executor-1"), signal.SIGCONT)
    assert await run.ended() == "succeeded", await run.story()
    await run.settled()
    await until_gone(process)
    states = await run.states(tool="ledger.write")
    assert states[0] == "voided"
    assert states.count("committed") == 1, await run.story()
    assert len(ledger.lines("frozen")) == 1
