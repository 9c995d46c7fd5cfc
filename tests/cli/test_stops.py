"""The emergency stop on the command line, against a whole stack."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from .desk import Desk, please
from .pseudo_terminal import on_terminal

WHY = ("--reason", "it mails nonsense")


@pytest.fixture(autouse=True)
async def _nothing_stays_stopped(desk: Desk) -> AsyncIterator[None]:
    yield
    await lift_all(desk)


async def lift_all(desk: Desk) -> None:
    for one in await asyncio.to_thread(desk.owner.stops):
        await asyncio.to_thread(desk.owner.lift_stop, one.stop_id, reason="the test is over")


async def test_a_stop_is_set_listed_and_lifted(desk: Desk) -> None:
    assert (await desk.holdfast("stops")).stdout == "nothing is stopped\n"
    assert await desk.answer("stops") == []
    done = await desk.holdfast("stop", "--agent", "helper", *WHY)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "agent helper is stopped: it mails nonsense"
    found = re.search(r"holdfast stops lift (\S+) --reason", done.stdout)
    assert found
    again = await desk.holdfast("stop", "--agent", "helper", "--reason", "another")
    assert "it was stopped before, by user:owner" in again.stdout
    assert found[1] in again.stdout
    listed = (await desk.holdfast("stops", user="alice")).stdout.splitlines()
    assert listed[0].split() == ["stop", "on", "since", "by", "reason"]
    assert listed[1].startswith(found[1])
    refused = await desk.holdfast("run", "hello", "--agent", "helper")
    assert refused.exit_code == 1
    for words in ("an emergency stop is on: it mails nonsense", "`holdfast stops` names it", "stop.active"):
        assert words in refused.stderr
    estimate = await desk.holdfast("estimate", "hello", "--agent", "helper")
    assert (estimate.exit_code, "it mails nonsense" in estimate.stdout) == (9, True)
    lifted = await desk.holdfast("stops", "lift", found[1], "--reason", "repaired")
    assert re.match(r"the stop on agent helper was lifted by user:owner on .*: repaired\n$", lifted.stdout)
    every = (await desk.holdfast("stops", "--all")).stdout
    assert re.search(rf"^{found[1]} .* by user:owner: repaired$", every, re.MULTILINE)
    assert await desk.ended(await desk.start({"say": "hello"})) == "succeeded"


async def test_a_stopped_tool_is_told_to_the_model_and_the_rest_goes_on(desk: Desk) -> None:
    made = await desk.answer("stop", "--tool", "mail.list", *WHY)
    assert (made["scope_kind"], made["scope_name"], made["was_on"], made["outside"]) == ("tool", "mail.list", False, 0)
    script = please({"tool": "mail.list", "arguments": {}}, {"say": "then without"})
    done = await desk.holdfast("run", script, "--agent", "helper")
    assert done.exit_code == 0, done.output
    assert "stop.active" in done.stdout
    await desk.answer("stops", "lift", made["stop_id"], "--reason", "repaired")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        ([], 2, "holdfast down"),
        (["--tenant", "--agent", "helper"], 2, "one of"),
        (["--agent", "nobody"], 1, "nobody"),
        (["--role", "nobody"], 1, "nobody"),
        (["--tool", "no.such"], 1, "no.such"),
    ],
    ids=str,
)
async def test_a_wrong_stop_is_refused_in_a_sentence(
    desk: Desk, arguments: list[str], exit_code: int, says: str
) -> None:
    done = await desk.holdfast("stop", *arguments, *WHY)
    assert (done.exit_code, says in " ".join(done.stderr.split())) == (exit_code, True), done.output
    assert await desk.answer("stops") == []


async def test_whoever_may_not_stop_is_told_so(desk: Desk) -> None:
    done = await desk.holdfast("stop", "--tenant", "--yes", *WHY, user="alice")
    assert (done.exit_code, "auth.not_permitted" in done.stderr) == (8, True)
    assert (await desk.holdfast("stop", "--tenant", "--yes")).exit_code == 2, "a reason has to be given"


async def test_the_whole_tenant_is_stopped_after_a_question_on_a_terminal(desk: Desk) -> None:
    command = ("stop", "--tenant", *WHY, "--data-dir", str(desk.data), "--key-file", str(desk.key_file("owner")))
    async with on_terminal(*command) as terminal:
        await terminal.sees("Stop every agent of the tenant desk?")
        terminal.press("n\n")
        assert await terminal.ends() == 1
    assert await desk.answer("stops") == []
    async with on_terminal(*command) as terminal:
        await terminal.sees("Stop every agent of the tenant desk?")
        terminal.press("y\n")
        assert await terminal.ends() == 0
    assert [one["scope_kind"] for one in await desk.answer("stops")] == ["tenant"]
    await lift_all(desk)
    async with on_terminal(*command, "--yes") as terminal:
        assert await terminal.ends() == 0
        assert "tenant is stopped: it mails nonsense" in terminal.plain
