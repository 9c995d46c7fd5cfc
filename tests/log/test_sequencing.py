"""Sequencing: late commits, two at once, death at every step, tampering; and what the store itself refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from holdfast.database.engine import transaction
from holdfast.ids import new_id
from holdfast.transparency import sequencing
from holdfast.transparency.keys import public_of
from holdfast.transparency.sequencing import LogBroken, LogKeyUnknown, append
from holdfast_verdict.log import tree
from holdfast_verdict.log.checkpoint import SignedCheckpoint
from tests.forging import write_past_triggers
from tests.ledger.world import Database, until
from tests.stack.places import ROOT

from .go_oracle import Oracle, raw
from .world import NAME, Log, key_file, new_log

INSERT = """
    INSERT INTO decisions (tenant_id, decision_id, kind, verdict, reason_codes, reply, part_a, part_b, record_hash)
    VALUES ($1, $2, 'config', 'allow', '{cap.set}', '{}', 'a', 'b', sha256('\\x00'::bytea || sha256('a') || sha256('b')))
"""


async def test_records_are_numbered_and_the_tree_is_signed(ledger_log: Log) -> None:
    sequencer = ledger_log.sequencer()
    for count in (1, 2, 253, 1, 300):
        await ledger_log.write(count)
        await sequencer.round()
        assert await ledger_log.unnumbered() == 0
    assert await ledger_log.check() == 557
    assert [row["size"] for row in await ledger_log.checkpoints()] == [1, 3, 256, 257, 557]


async def test_nothing_to_do_writes_nothing(ledger_log: Log) -> None:
    await ledger_log.sequencer().round()
    assert await ledger_log.checkpoints() == []
    await ledger_log.write()
    for _ in range(3):
        await ledger_log.sequencer().round()
    assert len(await ledger_log.checkpoints()) == 1


async def test_more_than_a_batch_is_done_in_one_round(ledger_log: Log) -> None:
    await ledger_log.write(sequencing.BATCH_MAX * 2 + 7)
    await ledger_log.sequencer().round()
    assert await ledger_log.check() == sequencing.BATCH_MAX * 2 + 7
    assert len(await ledger_log.checkpoints()) == 3


async def test_the_oracle_has_the_same_root(ledger_log: Log, oracle: Oracle) -> None:
    await ledger_log.write(71)
    await ledger_log.sequencer().round()
    stored = await ledger_log.tiles()
    entries = [stored[-1, 0][at : at + 64] for at in range(0, 71 * 64, 64)]
    [checkpoint] = await ledger_log.checkpoints()
    assert raw(oracle.ask("tree", entries=entries)["roots"])[-1] == checkpoint["root"]
    found = oracle.ask("open", message=checkpoint["note"], keys=[ledger_log.vkey.text])
    assert found["text"] == checkpoint["note"].partition("\n\n")[0] + "\n"


async def test_a_transaction_that_began_earlier_and_commits_later_is_not_missed(ledger_log: Log) -> None:
    sequencer = ledger_log.sequencer()
    late = await ledger_log.database.connect("api")
    await late.execute(f"BEGIN; SET LOCAL holdfast.tenant_id = '{ledger_log.tenant_id}'")
    early_id = new_id()
    await late.execute(INSERT, ledger_log.tenant_id, early_id)
    await asyncio.sleep(0.002)  # so that the ids of the others are of a later millisecond
    for _ in range(3):
        await ledger_log.record()
        await sequencer.round()
    assert await ledger_log.check() == 3
    await late.execute("COMMIT")
    await late.close()
    await sequencer.round()
    assert await ledger_log.check() == 4
    number = await ledger_log.database.value("SELECT leaf_index FROM decisions WHERE decision_id = $1", early_id)
    assert number == 3, "the oldest id has the newest number"


async def test_what_is_rolled_back_leaves_no_gap(ledger_log: Log) -> None:
    sequencer = ledger_log.sequencer()
    await ledger_log.record()
    undone = await ledger_log.database.connect("api")
    await undone.execute(f"BEGIN; SET LOCAL holdfast.tenant_id = '{ledger_log.tenant_id}'")
    await undone.execute(INSERT, ledger_log.tenant_id, new_id())
    await sequencer.round()
    await undone.execute("ROLLBACK")
    await undone.close()
    await ledger_log.record()
    await sequencer.round()
    assert await ledger_log.check() == 2


async def test_many_sequencers_and_writers_at_once(database: Database) -> None:
    logs = [await new_log(database) for _ in range(3)]
    for log in logs[1:]:
        log.private = logs[0].private
    done = asyncio.Event()

    async def sequence() -> None:
        sequencer = logs[0].sequencer()
        while not done.is_set():
            await sequencer.round()

    async def write(log: Log) -> None:
        for _ in range(25):
            await log.record()

    working = [asyncio.create_task(sequence()) for _ in range(4)]
    await asyncio.gather(*(write(log) for log in logs for _ in range(2)))
    done.set()
    await asyncio.gather(*working)
    await logs[0].sequencer().round()
    for log in logs:
        assert await log.check() == 50


@pytest.mark.parametrize("place", ["log.locked", "log.tiles", "log.numbered", "log.signed"])
@pytest.mark.parametrize("act", ["kill", "stop"])
async def test_killed_or_frozen_anywhere_it_loses_and_doubles_nothing(
    ledger_log: Log, tmp_path: Path, place: str, act: str
) -> None:
    await ledger_log.write(300)
    await ledger_log.sequencer().round()
    marker = tmp_path / "marker"
    marker.touch()
    await ledger_log.write(5)
    process = await _start(ledger_log, tmp_path, f"{place}={act}@{marker}")
    try:

        async def reached() -> bool:
            return not marker.exists()

        await until(reached, timeout_s=60)
        if act == "kill":
            assert await process.wait() == -signal.SIGKILL
        else:
            await ledger_log.record("written while it is frozen")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    await _until_gone(ledger_log)
    await ledger_log.check()
    await ledger_log.sequencer().round()
    assert await ledger_log.unnumbered() == 0
    assert await ledger_log.check() == (305 if act == "kill" else 306)


async def test_killed_again_and_again_while_records_come(ledger_log: Log, tmp_path: Path) -> None:
    written = 0
    for _ in range(4):
        process = await _start(ledger_log, tmp_path, "")
        least = written + 10

        async def some(least: int = least) -> bool:
            return len(await ledger_log.leaves()) >= least

        for _ in range(20):
            await ledger_log.record()
            written += 1
        await until(some, timeout_s=60)
        process.kill()
        await process.wait()
    await _until_gone(ledger_log)  # else its lock may be there still, and the log is left to it
    await ledger_log.sequencer().round()
    assert await ledger_log.check() == written


async def _until_gone(log: Log) -> None:
    """Waits until PostgreSQL has seen that a killed process is gone, and has rolled back what it was at."""

    async def gone() -> bool:
        return not await log.database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-sequencer'"
        )

    await until(gone, timeout_s=60)


async def _start(log: Log, folder: Path, failpoints: str) -> asyncio.subprocess.Process:
    path = key_file(folder, log.private + "\n")
    environment = {**os.environ, "HOLDFAST_FAILPOINTS": failpoints}
    arguments = (log.database.urls["holdfast_sweeper"], str(path), NAME)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.log.sequencing_process", *arguments, cwd=ROOT, env=environment
    )


# Tampering ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tampering", ["part_b = part_b || ' '", "part_a = NULL, part_a_sha256 = sha256(part_a)"])
async def test_a_record_that_was_altered_before_it_had_a_number_is_left_out_and_said(
    ledger_log: Log, capsys: pytest.CaptureFixture[str], tampering: str
) -> None:
    altered = await ledger_log.record("altered")
    await ledger_log.write(3)
    pool = ledger_log.database.superuser
    await write_past_triggers(pool, f"UPDATE decisions SET {tampering} WHERE decision_id = $1", altered)
    await ledger_log.sequencer().round()
    assert (await ledger_log.check(), await ledger_log.unnumbered()) == (3, 1)
    assert str(altered) in capsys.readouterr().out
    await ledger_log.write(2)
    await ledger_log.sequencer().round()
    assert (await ledger_log.check(), await ledger_log.unnumbered()) == (5, 1)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE log_tiles SET data = set_byte(data, 6, get_byte(data, 6) # 1) WHERE tenant_id = $1 AND level = 0 AND index = 1",
        "UPDATE log_tiles SET data = substr(data, 1, 32) WHERE tenant_id = $1 AND level = 0 AND index = 1",
        "DELETE FROM log_tiles WHERE tenant_id = $1 AND level = 1",
        "DELETE FROM log_checkpoints WHERE tenant_id = $1 AND size = 300",
        "UPDATE log_checkpoints SET root = sha256('x') WHERE tenant_id = $1",
        "UPDATE logs SET size = 299 WHERE tenant_id = $1",
        "UPDATE logs SET size = 301 WHERE tenant_id = $1",
    ],
)
async def test_a_log_that_was_tampered_with_is_not_signed_again(ledger_log: Log, tampering: str) -> None:
    await ledger_log.write(300)
    await ledger_log.sequencer().round()
    await ledger_log.write(1)
    async with ledger_log.database.superuser.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # no trigger stands in its way
        await connection.execute(tampering, ledger_log.tenant_id)
    before = [row["note"] for row in await ledger_log.checkpoints()]
    await ledger_log.sequencer().round()
    assert [row["note"] for row in await ledger_log.checkpoints()] == before
    assert await ledger_log.unnumbered() == 1
    with pytest.raises(LogBroken):
        async with transaction(ledger_log.database.engine("sweeper"), ledger_log.tenant_id) as connection:
            await append(connection, ledger_log.tenant_id, keys=ledger_log.keys, name=NAME)


async def test_one_log_that_stands_holds_up_no_other(database: Database) -> None:
    one, other = await new_log(database), await new_log(database)
    other.private = one.private
    for log in (one, other):
        await log.write(3)
    await one.sequencer().round()
    await database.execute("UPDATE log_checkpoints SET root = sha256('x') WHERE tenant_id = $1", one.tenant_id)
    for log in (one, other):
        await log.write(1)
    await one.sequencer().round()
    assert await one.unnumbered() == 1
    assert await other.check() == 4


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO log_checkpoints VALUES ($1, 5, sha256('fork'), 'x')", "log_checkpoints_only_grow"),
        ("INSERT INTO log_checkpoints VALUES ($1, 4, sha256('rollback'), 'x')", "log_checkpoints_only_grow"),
        ("INSERT INTO log_checkpoints VALUES ($1, 6, sha256('ahead'), 'x')", "log_checkpoints_only_grow"),
        ("UPDATE logs SET size = 4 WHERE tenant_id = $1", "logs_only_grow"),
        ("INSERT INTO log_checkpoints VALUES ($1, 6, sha256('gap'), 'x')", "log_checkpoints_have_no_gap"),
        ("UPDATE decisions SET leaf_index = 9 WHERE tenant_id = $1 AND leaf_index = 4", "decisions_numbered_once"),
        ("UPDATE decisions SET leaf_index = NULL WHERE tenant_id = $1 AND leaf_index = 4", "decisions_numbered_once"),
        ("UPDATE decisions SET leaf_index = 4 WHERE tenant_id = $1 AND leaf_index IS NULL", "decisions_leaf"),
        ("UPDATE log_tiles SET data = sha256('x') WHERE tenant_id = $1 AND level = 0", "log_tiles_only_grow"),
        ("UPDATE log_tiles SET data = data || '\\x00' WHERE tenant_id = $1 AND level = 0", "log_tiles_check"),
    ],
)
async def test_the_store_refuses_forks_rollbacks_and_rewriting(
    ledger_log: Log, statement: str, constraint: str
) -> None:
    await ledger_log.write(5)
    await ledger_log.sequencer().round()
    await ledger_log.write(1)
    connection = await ledger_log.database.connect("sweeper")
    await connection.execute(f"BEGIN; SET LOCAL holdfast.tenant_id = '{ledger_log.tenant_id}'")
    if constraint == "log_checkpoints_have_no_gap":  # the size alone is not enough
        await connection.execute("UPDATE logs SET size = 6 WHERE tenant_id = $1", ledger_log.tenant_id)
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.UniqueViolationError)) as refused:
        await connection.execute(statement, ledger_log.tenant_id)
    assert refused.value.constraint_name == constraint
    await connection.close()
    await ledger_log.sequencer().round()
    assert await ledger_log.check() == 6


async def test_nobody_may_delete_from_the_log_or_change_a_checkpoint(ledger_log: Log) -> None:
    await ledger_log.write(2)
    await ledger_log.sequencer().round()
    for role in ("sweeper", "api", "governor", "auditor"):
        connection = await ledger_log.database.connect(role)
        await connection.execute("SELECT set_config('holdfast.tenant_id', $1, false)", str(ledger_log.tenant_id))
        for statement in (
            "DELETE FROM log_tiles",
            "DELETE FROM log_checkpoints",
            "DELETE FROM logs",
            "UPDATE log_checkpoints SET note = 'x'",
            "UPDATE log_keys SET public_key = sha256('x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.close()


async def test_a_clock_that_jumps_changes_nothing(ledger_log: Log) -> None:
    """No step of it asks what time it is: numbers follow numbers, and sizes sizes."""
    await ledger_log.write(3)
    await ledger_log.sequencer().round()
    for shift in ("1 year", "-1 year"):
        for table in ("log_checkpoints", "decisions"):
            await ledger_log.database.execute(
                f"UPDATE {table} SET created_at = created_at + interval '{shift}' WHERE tenant_id = $1",
                ledger_log.tenant_id,
            )
        await ledger_log.write(1)
        await ledger_log.sequencer().round()
    assert await ledger_log.check() == 5


# Keys --------------------------------------------------------------------------------------------------------------------


async def test_a_key_that_the_log_does_not_know_signs_nothing(ledger_log: Log) -> None:
    await ledger_log.write(3)
    await ledger_log.sequencer().round()
    await ledger_log.write(1)
    stranger = Log(ledger_log.database, ledger_log.tenant_id)
    await stranger.sequencer().round()
    assert (len(await ledger_log.leaves()), await ledger_log.unnumbered()) == (3, 1)
    with pytest.raises(LogKeyUnknown, match=public_of(ledger_log.private)):
        async with transaction(ledger_log.database.engine("sweeper"), ledger_log.tenant_id) as connection:
            await append(connection, ledger_log.tenant_id, keys=stranger.keys, name=NAME)


async def test_a_key_takes_over_while_both_sign_and_the_old_one_stays_published(ledger_log: Log) -> None:
    old, new = ledger_log, Log(ledger_log.database, ledger_log.tenant_id)
    await old.write(3)
    await old.sequencer().round()
    await old.write(2)
    await old.sequencer(f"{new.private}\n{old.private}\n").round()
    await old.write(1)
    only_new = f"{new.private}\nretired {public_of(old.private)}\n"
    await old.sequencer(only_new).round()
    await old.sequencer(only_new).round()  # the records about the keys are records
    checkpoints = {row["size"]: row["note"] for row in await old.checkpoints()}
    assert SignedCheckpoint.open(checkpoints[3], [old.vkey])
    for key in (old.vkey, new.vkey):
        assert SignedCheckpoint.open(checkpoints[5], [key])
    newest = checkpoints[max(checkpoints)]
    assert SignedCheckpoint.open(newest, [new.vkey])
    assert public_of(old.private) not in newest
    rows = await old.database.fetch("SELECT * FROM log_keys WHERE tenant_id = $1", old.tenant_id)
    keys = {row["public_key"].hex(): row for row in rows}
    assert (keys[public_of(old.private)]["first_size"], keys[public_of(old.private)]["retired_size"]) == (3, 5)
    assert (keys[public_of(new.private)]["first_size"], keys[public_of(new.private)]["retired_size"]) == (5, None)
    codes = await old.database.fetch(
        "SELECT reason_codes[1] AS code FROM decisions WHERE tenant_id = $1 ORDER BY leaf_index OFFSET 5", old.tenant_id
    )
    assert [row["code"] for row in codes if row["code"].startswith("log.")] == ["log.key_added", "log.key_retired"]
    await old.check(old.vkey, new.vkey)
    # a process that has not heard of it, with the retired key alone, signs nothing
    await old.write(1)
    await old.sequencer().round()
    assert await old.unnumbered() == 1


async def test_a_lost_key_is_replaced_only_if_its_owner_says_so(ledger_log: Log) -> None:
    await ledger_log.write(3)
    await ledger_log.sequencer().round()
    new = Log(ledger_log.database, ledger_log.tenant_id)
    await ledger_log.write(1)
    await new.sequencer(f"{new.private}\nretired {public_of(ledger_log.private)}\n").round()
    assert SignedCheckpoint.open((await new.checkpoints())[-1]["note"], [new.vkey])
    await new.check(ledger_log.vkey, new.vkey)


async def test_the_root_is_over_the_promise_that_permits_carry(ledger_log: Log) -> None:
    decision_id = await ledger_log.record()
    await ledger_log.sequencer().round()
    promise = await ledger_log.database.value("SELECT record_hash FROM decisions WHERE decision_id = $1", decision_id)
    [checkpoint] = await ledger_log.checkpoints()
    tree.verify_inclusion(index=0, size=1, leaf=promise, proof=[], root=checkpoint["root"])
