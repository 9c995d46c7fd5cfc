"""What keeps two sequencers of one log apart: each lock alone, without the others, and what each is for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from sqlalchemy import text

from holdfast.database.engine import transaction
from holdfast.transparency import sequencing
from holdfast.transparency.sequencing import Appended, append
from tests.ledger.world import Database, until
from tests.stack.places import ROOT

from .world import NAME, Log, key_file, new_log

_FOR_EVER_MS = 600_000
_SOON_MS = 1_500

_IN_THE_MIDDLE = """
    SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-sequencer' AND state = 'idle in transaction'
"""
_WAITS_FOR_A_LOCK = """
    SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-test-sweeper' AND wait_event_type = 'Lock'
"""


@asynccontextmanager
async def standing(
    log: Log, folder: Path, place: str, *, frozen_ms: int, act: str = "stop"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that is at the log, and stands (or has died) at a place in the middle of its transaction."""
    marker = folder / "marker"
    marker.touch()
    arguments = (log.database.urls["holdfast_sweeper"], str(key_file(folder, log.private + "\n")), NAME, str(frozen_ms))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.log.sequencing_process",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_FAILPOINTS": f"{place}={act}@{marker}"},
    )
    try:

        async def reached() -> bool:
            return not marker.exists()

        await until(reached, timeout_s=60)
        if act == "stop":

            async def stopped() -> bool:
                return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)

            await until(stopped, timeout_s=60)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def in_the_middle(log: Log) -> int:
    """How many processes are in the middle of a transaction on a log."""
    return int(await log.database.value(_IN_THE_MIDDLE))


# The advisory lock: whoever finds a log taken goes on with the next


@pytest.mark.parametrize("place", ["log.locked", "log.numbered"])
async def test_a_log_that_is_taken_is_left_and_holds_up_no_other(
    database: Database, tmp_path: Path, place: str
) -> None:
    taken, other = await new_log(database), await new_log(database)
    other.private = taken.private
    await taken.write(3)
    async with standing(taken, tmp_path, place, frozen_ms=_FOR_EVER_MS):
        await other.write(2)
        async with asyncio.timeout(60):  # and not until the other is thrown out
            async with transaction(database.engine("sweeper"), taken.tenant_id) as connection:
                assert await append(connection, taken.tenant_id, keys=taken.keys, name=NAME) is None
            await other.sequencer().round()
        assert await other.check() == 2
        assert await in_the_middle(taken), "it stands there still"
        assert await taken.unnumbered() == 3


# The row's lock: two that get past the advisory lock follow each other


async def test_without_the_advisory_lock_the_second_waits_for_the_first_and_goes_on_from_there(
    ledger_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger_log.write(300)
    await ledger_log.sequencer().round()
    monkeypatch.setattr(sequencing, "_TRY_LOCK", text("SELECT CAST(:tenant_id AS text) IS NOT NULL"))
    numbered, go_on = asyncio.Event(), asyncio.Event()

    async def stand(name: str) -> None:
        if name == "log.numbered" and not numbered.is_set():
            numbered.set()
            await go_on.wait()

    monkeypatch.setattr(sequencing, "failpoint", stand)

    async def one() -> Appended | None:
        async with transaction(ledger_log.database.engine("sweeper"), ledger_log.tenant_id) as connection:
            return await append(connection, ledger_log.tenant_id, keys=ledger_log.keys, name=NAME)

    await ledger_log.write(5)
    first = asyncio.create_task(one())
    async with asyncio.timeout(60):
        await numbered.wait()
    await ledger_log.write(2)
    second = asyncio.create_task(one())

    async def waits() -> bool:
        return second.done() or bool(await ledger_log.database.value(_WAITS_FOR_A_LOCK))

    await until(waits, timeout_s=60)
    go_on.set()
    assert [await first, await second] == [Appended(305, 5, more=False), Appended(307, 2, more=False)]
    assert await ledger_log.check() == 307


# The bound on standing still: who freezes is thrown out, and finds when it wakes that it is


@pytest.mark.parametrize("place", ["log.locked", "log.tiles", "log.numbered", "log.signed"])
async def test_who_freezes_past_its_time_is_passed_by_and_wakes_without_harm(
    ledger_log: Log, tmp_path: Path, place: str
) -> None:
    await ledger_log.write(300)
    await ledger_log.sequencer().round()
    await ledger_log.write(5)
    async with standing(ledger_log, tmp_path, place, frozen_ms=_SOON_MS) as process:

        async def passed_by() -> bool:
            await ledger_log.sequencer().round()
            return await ledger_log.unnumbered() == 0

        await until(passed_by, timeout_s=60)
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        assert await ledger_log.check() == 305
        process.send_signal(signal.SIGCONT)
        await ledger_log.write(4)

        async def goes_on() -> bool:
            return await ledger_log.unnumbered() == 0

        await until(goes_on, timeout_s=60)  # by the one that woke: nobody else is there
        assert process.returncode is None
    assert await ledger_log.check() == 309


# Death between the numbers and the commit, while others stand by


async def test_who_dies_after_numbering_leaves_the_log_to_the_one_that_stands_by(
    ledger_log: Log, tmp_path: Path
) -> None:
    await ledger_log.write(300)
    await ledger_log.sequencer().round()
    await ledger_log.write(5)
    by = asyncio.Event()

    async def stand_by() -> None:
        sequencer = ledger_log.sequencer()
        while not by.is_set():
            await sequencer.round()

    async with standing(ledger_log, tmp_path, "log.numbered", frozen_ms=_FOR_EVER_MS, act="kill") as process:
        standing_by = asyncio.create_task(stand_by())
        assert await process.wait() == -signal.SIGKILL

        async def done() -> bool:
            return await ledger_log.unnumbered() == 0

        await until(done, timeout_s=60)
        by.set()
        await standing_by
    assert await ledger_log.check() == 305
    assert [row["size"] for row in await ledger_log.checkpoints()] == [300, 305]
