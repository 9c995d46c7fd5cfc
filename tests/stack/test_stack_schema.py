"""A data folder of another version: an older one is migrated, with a word; a newer one is refused by everything that starts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from cli.stack.errors import ChildFailed
from cli.stack.supervisor import Part, Stack
from holdfast.database.engine import create_engine
from holdfast.database.migrate import migrate
from holdfast.database.version import MIGRATIONS, SchemaVersion, newest_known
from tests.stack.places import run_module

SCHEMA: frozenset[Part] = frozenset({"postgres", "migrations"})


async def _say_version(stack: Stack, version: SchemaVersion, number: str) -> None:
    """Makes the database look as if another version had migrated it."""
    connection = await asyncpg.connect(stack.superuser_url)
    await connection.execute(f"COMMENT ON TABLE alembic_version IS '{version.comment}'")
    await connection.execute("UPDATE alembic_version SET version_num = $1", number)
    await connection.close()


async def test_up_on_an_older_folder_migrates_it_and_says_so(open_folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "versions"
    shutil.copytree(MIGRATIONS, first, ignore=lambda _, names: {name for name in names if not name.startswith("0001")})
    async with Stack(open_folder, ports="free", parts={"postgres"}) as stack:
        engine = create_engine(stack.database_url("holdfast_owner"), process="test", pool_size=2)
        assert (await migrate(engine, folder=first)).after == "0001"
        await engine.dispose()
    said: list[str] = []
    async with Stack(open_folder, ports="free", parts=SCHEMA, say=said.append):
        assert f"the database schema was migrated from version 0001 to {newest_known()}" in said
    said.clear()
    async with Stack(open_folder, ports="free", parts=SCHEMA, say=said.append):
        assert f"the database schema is up to date (version {newest_known()})" in said


async def test_up_on_a_newer_folder_refuses_and_says_what_to_do(open_folder: Path) -> None:
    said: list[str] = []
    async with Stack(open_folder, ports="free", parts=SCHEMA, say=said.append) as stack:
        assert f"the database schema was made (version {newest_known()})" in said
        await _say_version(stack, SchemaVersion("9001", "9000"), "9001")
    with pytest.raises(ChildFailed) as caught:
        await Stack(open_folder, ports="free", parts=SCHEMA).start()
    assert f"the database's schema is 9001; this program knows {newest_known()} as the newest" in caught.value.message
    assert "start a newer version of Holdfast" in caught.value.message


@pytest.mark.timeout(600)  # it starts eighteen processes
async def test_every_process_refuses_a_schema_that_does_not_fit(open_folder: Path) -> None:
    parts: frozenset[Part] = frozenset({"postgres", "valkey", "temporal", "migrations"})
    async with Stack(open_folder, ports="free", parts=parts, headless=True) as stack:
        for version, sentence in (
            (SchemaVersion("0000", "0000"), f"schema is 0000; this program needs {newest_known()}"),
            (
                SchemaVersion("9001", "9000"),
                f"schema is 9001, which programs made for {newest_known()} cannot work with",
            ),
            (SchemaVersion(newest_known(), "0001", restoring=True), "a restore into this database has not finished"),
        ):
            await _say_version(stack, version, version.version)
            await asyncio.gather(*(_refused(stack, name, module, sentence) for name, module in _PROCESSES))


_PROCESSES = (
    ("governor", "workers.embedded"),
    ("governor", "workers.governor"),
    ("governor", "workers.broker"),
    ("executor", "workers.executor"),
    ("api", "api"),
    ("bootstrap", "holdfast.tenancy.bootstrap"),
)


async def _refused(stack: Stack, name: str, module: str, sentence: str) -> None:
    done = await run_module(module, stack.env_for(name))
    assert done[0] == 2, done
    assert sentence in done[1], module
    assert "Traceback" not in done[1], done
