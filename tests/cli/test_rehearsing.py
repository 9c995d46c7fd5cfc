"""`holdfast policy rehearse` against a whole stack and over a bundle: what it finds, what it refuses, and what Ctrl-C does."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from .desk import LETTER, Desk
from .pseudo_terminal import CTRL_C, PseudoTerminal, on_terminal
from .test_policies import POLICY

QUIET = "role helper {\n  permit llm.call\n  permit tools\n  forbid mail.send as quiet\n}\n"
WRONG = "role helper {\n  permit mail.lst\n}\n"
LONG_AGO = ("--from", "2020-01-01", "--to", "2020-01-02")


@pytest.fixture
async def mailed(desk: Desk) -> str:
    """A run that has sent a mail, which `QUIET` would refuse."""
    run_id = await desk.start({"tool": "mail.send", "arguments": {**LETTER, "subject": "Rehearsed"}}, {"say": "done"})
    assert await desk.ended(run_id) == "succeeded"
    return run_id


@pytest.fixture
def quiet(tmp_path: Path) -> str:
    file = tmp_path / "quiet.policy"
    file.write_text(QUIET)
    return str(file)


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    file = tmp_path / "wrong.policy"
    file.write_text(WRONG)
    return str(file)


async def told(desk: Desk, *args: str) -> tuple[int, dict[str, Any]]:  # Any: JSON
    done = await desk.holdfast("policy", "rehearse", *args, "--json")
    return done.exit_code, json.loads(done.stdout)


async def refusals(desk: Desk, run_id: str, found: dict[str, Any]) -> int:
    """How many mails would newly be refused, as the report says; each example is a decision that is there."""
    changes = [one for one in found["changes"] if one["change"] == "newly_refused" and one["action"] == "mail.send"]
    for change in changes:
        for example in change["examples"]:
            detail = await asyncio.to_thread(desk.owner.decision, example["decision_id"])
            assert (detail.decision.tool, detail.decision.run_id) == ("mail.send", example["run_id"])
    return sum(change["as_recorded"] for change in changes)


async def test_what_would_be_decided_otherwise_is_told_and_ends_with_1(desk: Desk, mailed: str, quiet: str) -> None:
    done = await desk.holdfast("policy", "rehearse", quiet)
    assert done.exit_code == 1
    assert re.search(r"^\d+ decisions, asked again$", done.stdout, re.MULTILINE), done.output
    assert "newly refused:\n" in done.stdout
    assert "  helper: mail.send: allow (policy.permitted" in done.stdout
    assert "→ deny (policy.forbidden, quiet)" in done.stdout
    code, answer = await told(desk, quiet)
    assert (code, answer["rehearsal"]["state"], answer["rehearsal"]["version"]) == (1, "done", None)
    assert answer["rehearsal"]["done"] == answer["rehearsal"]["total"]
    assert await refusals(desk, mailed, answer["result"]) >= 1
    again = await desk.holdfast("policy", "rehearse", "-", "--json", text=QUIET)
    assert json.loads(again.stdout)["result"]["changes"]


async def test_the_policy_that_decides_changes_nothing_and_ends_with_0(desk: Desk, mailed: str) -> None:
    active = next(one for one in await desk.answer("policy", "list") if one["active"])
    code, answer = await told(desk, str(active["version"]))
    sends = [one for one in answer["result"]["changes"] if one["action"] == "mail.send"]
    assert (answer["rehearsal"]["version"], sends) == (active["version"], [])
    assert code == (1 if answer["result"]["changes"] or answer["result"]["untold"] else 0)


async def test_a_time_without_decisions_is_said_to_be_one(desk: Desk, quiet: str) -> None:
    done = await desk.holdfast("policy", "rehearse", quiet, *LONG_AGO)
    assert (done.exit_code, done.stdout) == (
        0,
        "there are no decisions of that time that a candidate can be asked about\n",
    )
    code, answer = await told(desk, quiet, *LONG_AGO)
    assert (code, answer["result"]["decisions"], answer["result"]["changes"]) == (0, 0, [])


async def test_a_candidate_that_does_not_compile_is_marked_and_given_to_machines(desk: Desk, wrong: str) -> None:
    refused = await desk.holdfast("policy", "rehearse", wrong)
    assert refused.exit_code == 1
    assert "permit mail.lst" in refused.stderr
    assert "policy.refused" in refused.stderr
    assert refused.stdout == ""
    code, answer = await told(desk, wrong)
    assert (code, answer["ok"]) == (1, False)
    assert (answer["problems"][0]["line"], answer["problems"][0]["column"]) == (2, 10)


async def test_what_is_wrongly_asked_is_refused_in_a_sentence(desk: Desk, quiet: str, tmp_path: Path) -> None:
    not_there, no_bundle = str(tmp_path / "nowhere"), tmp_path / "no.jsonl"
    no_bundle.write_text("this is no bundle\n")
    for code, words, options in (
        (1, "there is no file", (not_there,)),
        (1, "resource.not_found", ("9999",)),
        (1, "the time ends before it begins", (quiet, "--from", "2020-01-02", "--to", "2020-01-01")),
        (1, "the time ends before it begins", (quiet, "--to", "2020-01-01")),
        (2, "Invalid value", (quiet, "--from", "yesterday")),
        (2, "--from and --to", (quiet, "--bundle", str(no_bundle), "--from", "2020-01-01")),
        (2, "are for --bundle", (quiet, "--workers", "1")),
        (1, "cannot read", (quiet, "--bundle", not_there)),
        (1, str(no_bundle), (quiet, "--bundle", str(no_bundle))),
    ):
        done = await desk.holdfast("policy", "rehearse", *options)
        assert (done.exit_code, words in " ".join(done.stderr.split())) == (code, True), (options, done.output)


async def test_over_a_bundle_it_needs_no_server_and_finds_the_same(
    desk: Desk, mailed: str, quiet: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "run.jsonl"
    assert (await desk.holdfast("audit", "export", "--run", mailed, "--out", str(bundle))).exit_code == 0
    offline = ("policy", "rehearse", quiet, "--bundle", str(bundle), "--workers", "1")
    done = await desk.bare(*offline, "--json", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1, done.output
    answer = json.loads(done.stdout)
    assert answer["bundle"] == str(bundle)
    assert answer["result"]["decisions"] == 3  # two thoughts and a mail
    assert await refusals(desk, mailed, answer["result"]) == 1
    assert "deny (policy.forbidden, quiet): 1 as they were" in (await desk.bare(*offline)).stdout
    same = tmp_path / "same.policy"
    same.write_text(POLICY)
    unchanged = await desk.bare("policy", "rehearse", str(same), "--bundle", str(bundle))
    assert (unchanged.exit_code, "nothing would be decided otherwise" in unchanged.stdout) == (0, True), (
        unchanged.output
    )
    same.write_text("role helper {\n  permit\n}\n")  # what is a tool and what is none, no bundle says
    refused = await desk.bare("policy", "rehearse", str(same), "--bundle", str(bundle), "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["problems"][0]["line"] in (2, 3)
    assert "policy.refused" in refused.stderr


@asynccontextmanager
async def unworked(desk: Desk, quiet: str) -> AsyncIterator[tuple[PseudoTerminal, asyncpg.Connection]]:
    """A rehearsal on a terminal, at which nobody works: whoever would take it up is not let."""
    database = await asyncpg.connect(desk.stack.superuser_url)
    await database.execute(
        """CREATE FUNCTION keep_waiting() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF NEW.tries > OLD.tries THEN RETURN NULL; END IF; RETURN NEW; END $$"""
    )
    await database.execute(
        "CREATE TRIGGER keep_waiting BEFORE UPDATE ON policy_rehearsals FOR EACH ROW EXECUTE FUNCTION keep_waiting()"
    )
    command = ("policy", "rehearse", quiet, "--data-dir", str(desk.data), "--key-file", str(desk.key_file("owner")))
    try:
        async with on_terminal(*command) as terminal:
            yield terminal, database
    finally:
        await database.execute("DROP TRIGGER keep_waiting ON policy_rehearsals")
        await database.execute("DROP FUNCTION keep_waiting")
        await database.close()


async def newest(database: asyncpg.Connection) -> dict[str, Any]:  # Any: columns
    row = await database.fetchrow("SELECT * FROM policy_rehearsals ORDER BY rehearsal_id DESC LIMIT 1")
    assert row is not None
    return dict(row)


async def test_ctrl_c_cancels_it_at_the_server(desk: Desk, quiet: str) -> None:
    async with unworked(desk, quiet) as (terminal, database):
        await terminal.sees("waiting: 0 records")
        row = await newest(database)
        await database.execute(
            """UPDATE policy_rehearsals SET state = 'running', done = 2000, total = 5000,
               held_until = now() + interval '1 h' WHERE rehearsal_id = $1""",
            row["rehearsal_id"],
        )
        await terminal.sees("running: 2,000 of 5,000 records")
        terminal.press(CTRL_C)
        assert await terminal.ends() == 130
        assert f"rehearsal {row['rehearsal_id']} is cancelled" in terminal.plain
        assert "Traceback" not in terminal.plain
        assert (await newest(database))["state"] == "cancelled"


async def test_ctrl_c_on_one_that_has_ended_does_not_call_it_cancelled(desk: Desk, quiet: str) -> None:
    """Between two looks at it, it was done."""
    async with unworked(desk, quiet) as (terminal, database):
        await terminal.sees("waiting: 0 records")
        row = await newest(database)
        os.kill(terminal.process.pid, 19)  # SIGSTOP: it looks no more
        await database.execute(
            "UPDATE policy_rehearsals SET state = 'failed', error = 'test', ended_at = now() WHERE rehearsal_id = $1",
            row["rehearsal_id"],
        )
        terminal.press(CTRL_C)
        os.kill(terminal.process.pid, 18)  # SIGCONT
        assert await terminal.ends() in (1, 130)
        assert "is cancelled" not in terminal.plain
        assert "Traceback" not in terminal.plain


async def test_one_that_somebody_else_cancels_has_no_result(desk: Desk, quiet: str) -> None:
    async with unworked(desk, quiet) as (terminal, database):
        await terminal.sees("waiting: 0 records")
        row = await newest(database)
        cancelled = await asyncio.to_thread(desk.owner.policies.cancel_rehearsal, str(row["rehearsal_id"]))
        assert cancelled.state == "cancelled"
        assert await terminal.ends() == 1
        assert "has no result: it was cancelled" in terminal.plain
        assert "policy.rehearsal_failed" in terminal.plain
