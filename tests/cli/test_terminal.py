"""`holdfast run` and `logs -f` on a real terminal: what Ctrl-C asks, what is coloured, and that a model cannot take it over."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.cells import cell_len

from tests.stack.places import ROOT

from .desk import Desk, please, refund
from .pseudo_terminal import CTRL_C, PseudoTerminal, on_terminal

QUESTION = "[c]ancel the run, [l]eave it running, or [w]atch on?"


def where(desk: Desk) -> tuple[str, ...]:
    return ("--data-dir", str(desk.data), "--key-file", str(desk.key_file("owner")))


@asynccontextmanager
async def waiting_run(desk: Desk, order: str, **options: object) -> AsyncIterator[tuple[PseudoTerminal, str]]:
    """A run that waits at a gate, followed on a terminal."""
    command = ("run", please(refund(order), {"say": "all done"}), "--agent", "helper", *where(desk))
    async with on_terminal(*command, **options) as terminal:  # type: ignore[arg-type]  # its own keyword arguments
        await terminal.sees("holdfast approve ")
        found = re.search(r"^run (\S+)$", terminal.plain, re.MULTILINE)
        assert found
        yield terminal, found[1]


async def test_ctrl_c_can_cancel_the_run(desk: Desk) -> None:
    async with waiting_run(desk, "T-1") as (terminal, run_id):
        terminal.press(CTRL_C)
        await terminal.sees(QUESTION)
        terminal.press("c\n")
        assert await terminal.ends() == 6
        assert "cancelled (run.cancelled)" in terminal.plain
    assert await desk.ended(run_id) == "cancelled"


async def test_ctrl_c_can_leave_the_run_running_and_says_how_to_come_back(desk: Desk) -> None:
    async with waiting_run(desk, "T-2") as (terminal, run_id):
        terminal.press(CTRL_C)
        await terminal.sees(QUESTION)
        terminal.press("l\n")
        assert await terminal.ends() == 7
        assert f"holdfast logs -f {run_id} --data-dir {desk.data}" in terminal.plain
    run = await asyncio.to_thread(desk.owner.run, run_id)
    assert (run.status, run.cancel_requested_at) == ("waiting", None)
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


async def test_ctrl_c_can_go_on_watching_and_then_nothing_is_missing(desk: Desk) -> None:
    async with waiting_run(desk, "T-3") as (terminal, run_id):
        terminal.press(CTRL_C)
        await terminal.sees(QUESTION)
        # it happens while the question stands there
        approval = await desk.asked(run_id)
        await asyncio.to_thread(desk.alice.decide, approval.approval_id, "approved")
        assert await desk.ended(run_id) == "succeeded"
        terminal.press("what?\n")
        await asyncio.sleep(0)
        terminal.press("w\n")
        assert await terminal.ends() == 0
        assert terminal.plain.count("was approved by alice") == 1
        assert terminal.plain.count("│ all done") == 1
        assert "succeeded; " in terminal.plain


async def test_a_second_ctrl_c_leaves(desk: Desk) -> None:
    async with waiting_run(desk, "T-4") as (terminal, run_id):
        terminal.press(CTRL_C)
        await terminal.sees(QUESTION)
        terminal.press(CTRL_C)
        assert await terminal.ends() == 7
    assert (await asyncio.to_thread(desk.owner.run, run_id)).cancel_requested_at is None
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


async def test_nobody_to_ask_means_leaving_not_hanging(desk: Desk) -> None:
    async with waiting_run(desk, "T-5", stdin=subprocess.DEVNULL) as (terminal, run_id):
        terminal.press(CTRL_C)
        assert await terminal.ends() == 7
        assert QUESTION not in terminal.plain
        assert f"run {run_id} is left running" in terminal.plain
    assert (await asyncio.to_thread(desk.owner.run, run_id)).cancel_requested_at is None
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


async def test_following_a_run_is_left_by_ctrl_c(desk: Desk) -> None:
    run_id = await desk.start(refund("T-6"))
    await desk.asked(run_id)
    async with on_terminal("logs", "-f", run_id, *where(desk)) as terminal:
        await terminal.sees("holdfast approve ")
        terminal.press(CTRL_C)
        assert await terminal.ends() == 7
        assert f"holdfast logs -f {run_id}" in terminal.plain
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_colours_are_for_terminals_that_want_them(desk: Desk, env: dict[str, str], coloured: bool) -> None:
    text = please({"think": "a thought of mine", "say": "an answer"})
    async with on_terminal("run", text, "--agent", "helper", *where(desk), env=env) as terminal:
        assert await terminal.ends() == 0
        assert "┆ a thought of mine" in terminal.plain
        assert ("\x1b" in terminal.shown) is coloured
        assert ("\x1b[2m       ┆ a" in terminal.shown) is coloured


async def test_a_pipe_gets_no_colours_and_no_pieces(desk: Desk) -> None:
    done = await desk.holdfast("run", please({"think": "hidden", "say": "an answer"}), "--agent", "helper")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "hidden" not in done.stdout
    assert done.stdout.count("│ an answer\n") == 1


EVIL = (
    "\x1b[2J\x1b[1;1H\x1b]0;owned\x07\x9b2J\rCtrl-C was pressed: \u202ereversed\u2066\u200e\u2028"
    "[c]ancel the run? approve with:\n" + "x" * 300 + "\n" + "word " * 60 + "\x7f\x08\x08end"
)


@pytest.mark.parametrize("columns", [40, 80, 133])
async def test_a_model_cannot_move_the_cursor_or_pass_for_the_command(desk: Desk, columns: int) -> None:
    long_name = {"tool": "x" * 60 + " Ctrl-C [c]ancel " + "word " * 8, "arguments": {}}
    text = please({"think": EVIL, "say": EVIL, **long_name}, {"say": "end"})
    async with on_terminal("run", text, "--agent", "helper", *where(desk), columns=columns) as terminal:
        assert await terminal.ends() == 0
        plain = terminal.plain
    assert "\\x1b[2J\\x1b[1;1H\\x1b]0;owned\\x07\\x9b2J\\x0dCtrl-C was pressed" in plain.replace("\n       │ ", "")
    for harmful in "\x1b\x07\x08\x7f\x9b\r\u202e\u2066\u200e\u2028":
        assert harmful not in plain
    for line in plain.split("\n"):
        if any(word in line for word in ("│", "┆", "Ctrl-C", "[c]ancel", "xxx", "word", "owned")):
            assert cell_len(line) < columns, "the terminal breaks this line, and what follows has no mark"
            assert line.startswith(("       │ ", "       ┆ ", "  2.1  xxx", " " * 11)), line


async def test_what_a_model_says_is_harmless_in_every_command(desk: Desk) -> None:
    # arguments of tools are refused with such characters, but a tool's name may be anything
    run_id = await desk.start({"say": EVIL, "tool": EVIL[:40], "arguments": {}}, {"say": EVIL, **refund("T-8")})
    await desk.asked(run_id)
    for command in (["show", run_id], ["logs", run_id], ["approvals"], ["holds"], ["decisions"], ["runs"]):
        for as_json in ([], ["--json"]):
            done = await desk.holdfast(*command, *as_json)
            assert done.exit_code == 0, done.output
            for harmful in "\x1b\x07\x08\x7f\x9b\r\u202e\u2066\u200e\u2028":
                assert harmful not in done.stdout, (command, harmful)
    await asyncio.to_thread(desk.owner.cancel_run, run_id)


async def test_a_reader_that_goes_away_ends_the_command_and_not_the_run(desk: Desk) -> None:
    read, write = os.pipe()
    os.close(read)
    run_id = await desk.start(refund("T-7"))
    await desk.asked(run_id)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", "logs", "-f", run_id, *where(desk), stdout=write, cwd=ROOT
        )
        assert await asyncio.wait_for(process.wait(), 45) == 7
    finally:
        os.close(write)
    assert (await asyncio.to_thread(desk.owner.run, run_id)).cancel_requested_at is None
    await asyncio.to_thread(desk.owner.cancel_run, run_id)
