"""`holdfast replay`: from Temporal, from the history that was kept when Temporal has forgotten it, and from a file."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cli.stack.temporal import NAMESPACE
from holdfast.histories import fetching
from holdfast.ids import new_id

from .desk import Desk, until


async def kept(desk: Desk, run_id: str) -> None:
    """Waits until a run's history is kept."""

    async def recorded() -> list[object]:
        return list(await asyncio.to_thread(desk.owner.decisions, run_id=run_id, kind="run.history"))

    await until(recorded, what="the keeping of the history")


async def ended(desk: Desk, agent: str = "helper") -> str:
    run_id = await desk.start(*[{"tool": "mail.list", "arguments": {}}] * 3, {"say": "done"}, agent=agent)
    assert await desk.ended(run_id) == "succeeded"
    await kept(desk, run_id)
    return run_id


async def forget(desk: Desk, run_id: str, oldest: int | None = None) -> None:
    """Lets Temporal forget a run, or its oldest executions, as it does when its retention has passed."""
    client = await Client.connect(desk.stack.urls.temporal, namespace=NAMESPACE)
    newest = await fetching.newest(client, run_id)
    assert newest is not None
    all_of_it = [one.run_id async for one in fetching.executions(client, run_id, newest.run_id)]
    for execution in all_of_it[-oldest:] if oldest else all_of_it:
        which = WorkflowExecution(workflow_id=run_id, run_id=execution)
        request = DeleteWorkflowExecutionRequest(namespace=NAMESPACE, workflow_execution=which)
        await client.workflow_service.delete_workflow_execution(request)

        async def forgotten(execution: str = execution) -> bool:
            try:
                await client.get_workflow_handle(run_id, run_id=execution).describe()
            except RPCError as error:
                return error.status == RPCStatusCode.NOT_FOUND
            return False

        await until(forgotten, what="the end of what Temporal knows")


@asynccontextmanager
async def past_us(desk: Desk, run_id: str) -> AsyncIterator[asyncpg.Connection]:
    """The database as somebody has it who writes past Holdfast; what is kept of the run is put back afterwards."""
    connection = await asyncpg.connect(desk.stack.superuser_url)
    await connection.execute("SET session_replication_role = replica")  # no trigger looks
    data = await connection.fetch("SELECT * FROM run_histories WHERE run_id = $1", run_id)
    try:
        yield connection
    finally:
        await connection.execute("DELETE FROM run_histories WHERE run_id = $1", run_id)
        await connection.executemany("INSERT INTO run_histories VALUES ($1, $2, $3, $4)", [tuple(row) for row in data])
        await connection.close()


async def test_a_run_replays_exactly_and_a_history_of_other_code_does_not(desk: Desk, tmp_path: Path) -> None:
    run_id = await desk.start({"tool": "mail.list", "arguments": {}}, {"say": "done"})
    assert await desk.ended(run_id) == "succeeded"
    saved, plain = tmp_path / "saved.json", tmp_path / "plain.json"
    done = await desk.holdfast("replay", run_id, "--save", str(saved))
    assert done.exit_code == 0, done.output
    assert "replays exactly" in done.stdout
    result = await desk.answer("replay", run_id, "--save", str(plain), "--decoded")
    assert result["ok"] is True
    assert "holdfast-encrypted" not in plain.read_text()
    assert (await desk.bare("replay", "--history", str(plain))).exit_code == 0
    other = plain.read_text().replace('"step-2-try-1"', '"step-3-try-1"').replace("execute_tool_call", "execute_other")
    plain.write_text(other)
    diverged = await desk.bare("replay", "--history", str(plain), "--json")
    assert diverged.exit_code == 1
    [execution] = json.loads(diverged.stdout)["executions"]
    assert "execute_other" in execution["divergence"] or "Nondeterminism" in execution["divergence"]


async def test_a_run_that_continued_as_new_replays_in_all_its_executions(desk: Desk) -> None:
    run_id = await desk.start(*[{"tool": "mail.list", "arguments": {}}] * 3, agent="forgetful")
    assert await desk.ended(run_id) == "succeeded"
    result = await desk.answer("replay", run_id)
    assert len(result["executions"]) == 4
    assert not any(execution["divergence"] for execution in result["executions"])


async def test_what_temporal_has_forgotten_replays_from_what_was_kept(desk: Desk, tmp_path: Path) -> None:
    run_id = await ended(desk, agent="forgetful")
    live = await desk.answer("replay", run_id)
    assert (live["ok"], live["source"], live["digest"], len(live["executions"])) == (True, "temporal", None, 4)
    both = await desk.answer("replay", run_id, "--kept")
    assert (both["source"], both["executions"]) == ("stored", live["executions"])
    await forget(desk, run_id, oldest=2)
    partly = await desk.holdfast("replay", run_id)
    assert "no history of the oldest executions" in partly.stderr
    assert partly.stdout.count("replays exactly") == 4
    checked = await asyncio.to_thread(desk.owner.cross_check, run_id)
    assert (checked.agrees, checked.source, checked.executions) == (True, "stored", 4), checked
    await forget(desk, run_id)
    saved = tmp_path / "kept.json"
    done = await desk.holdfast("replay", run_id, "--save", str(saved), "--decoded")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("the history that was kept when the run had ended; its digest ")
    assert done.stdout.count("replays exactly") == 4
    assert f"Temporal has no history of a run {run_id}: looking for the one that was kept" in done.stderr
    answer = await desk.answer("replay", run_id)
    assert (answer["ok"], answer["source"], answer["executions"]) == (True, "stored", live["executions"])
    record = await asyncio.to_thread(desk.owner.decision, answer["recorded_in"])
    assert record.part_a is not None
    assert record.part_a["facts"]["digest"] == answer["digest"]
    again = await desk.bare("replay", "--history", str(saved), "--json")
    assert (again.exit_code, json.loads(again.stdout)["source"]) == (0, "file")


async def test_a_kept_history_that_was_altered_is_not_replayed(desk: Desk) -> None:
    run_id, other = await ended(desk), await ended(desk)
    await forget(desk, run_id)
    async with past_us(desk, run_id) as database:
        write = "UPDATE run_histories SET data = $2 WHERE run_id = $1"
        data = await database.fetchval("SELECT data FROM run_histories WHERE run_id = $1", run_id)
        document = bytearray(zlib.decompress(data))
        document[-1] ^= 1
        for what, forged, words in (
            ("altered", zlib.compress(bytes(document)), "is not the one whose digest"),
            ("cut off", data[:-9], "is not whole"),
            (
                "another run's",
                await database.fetchval("SELECT data FROM run_histories WHERE run_id = $1", other),
                "digest",
            ),
        ):
            await database.execute(write, run_id, forged)
            refused = await desk.holdfast("replay", run_id)
            assert refused.exit_code == 1, what
            assert words in refused.stderr, what
            assert "witness.history_altered" in refused.stderr, what
            assert "replays" not in refused.stdout, what
        await database.execute("DELETE FROM run_histories WHERE run_id = $1", run_id)
        gone = await desk.holdfast("replay", run_id)
        assert (gone.exit_code, "nothing of it is there" in gone.stderr) == (1, True), gone.stderr
    assert (await desk.answer("replay", run_id))["ok"] is True


async def test_the_record_of_the_digest_has_to_be_the_one_of_the_log_and_of_this_run(desk: Desk) -> None:
    run_id, other = await ended(desk), await ended(desk)
    await forget(desk, run_id)
    async with past_us(desk, run_id) as database:
        of = "WHERE run_id = $1 AND kind = 'run.history'"
        part_a = await database.fetchval(f"SELECT part_a FROM decisions {of}", run_id)
        await database.execute(
            f"UPDATE decisions SET part_a = $2 {of}", run_id, part_a.replace(b'"digest":"', b'"digest":"00')
        )
        refused = await desk.holdfast("replay", run_id)
        assert (refused.exit_code, "witness.record_altered" in refused.stderr) == (1, True), refused.stderr
        await database.execute(f"UPDATE decisions SET part_a = $2 {of}", run_id, part_a)
        # record and history of another run, each whole by itself, in the place of this one's
        swap = "UPDATE decisions SET run_id = $2 WHERE run_id = $1 AND kind = 'run.history'"
        await database.execute(swap, run_id, nobody := new_id())
        await database.execute(swap, other, run_id)
        try:
            await database.execute(
                "UPDATE run_histories SET data = (SELECT data FROM run_histories WHERE run_id = $2) WHERE run_id = $1",
                run_id,
                other,
            )
            refused = await desk.holdfast("replay", run_id)
            assert (refused.exit_code, f"not one of the workflow {run_id}" in refused.stderr) == (1, True), (
                refused.stderr
            )
        finally:
            await database.execute(swap, run_id, other)
            await database.execute(swap, nobody, run_id)
    assert (await desk.answer("replay", run_id))["ok"] is True


async def test_temporal_may_be_away_and_a_run_that_nobody_knows_is_said_to_be_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ended(desk)
    nothing = str(new_id())
    for options in ((), ("--kept",)):
        missing = await desk.holdfast("replay", nothing, *options)
        assert (missing.exit_code, f"no history of a run {nothing} is kept" in missing.stderr) == (1, True)
    monkeypatch.setenv("HOLDFAST_TEMPORAL_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("HOLDFAST_CODEC_KEY_FILE", str(desk.stack.secrets.codec_key_file))
    done = await desk.holdfast("replay", run_id)
    assert done.exit_code == 0, done.output
    assert "Temporal at 127.0.0.1:9 does not answer" in done.stderr
    assert "the history that was kept" in done.stdout


async def test_replay_refuses_what_does_not_go_together(desk: Desk) -> None:
    for options in ((), (str(new_id()), "--history", "x"), ("--history", "x", "--kept"), (str(new_id()), "--decoded")):
        refused = await desk.holdfast("replay", *options)
        assert (refused.exit_code, "request.invalid" in refused.stderr) == (1, True), options
