"""Restoring into servers of one's own: first the databases; then, with Temporal up and nothing else, what has to be put right."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from sqlalchemy.engine import make_url

from cli.backup import archive, postgres_tools
from cli.backup.errors import RestoreFailed, RestoreRefused
from cli.backup.manifest import POSTGRES, SECRETS, TEMPORAL_MAIN, TEMPORAL_VISIBILITY, Manifest
from cli.backup.restore import check
from cli.backup.source import key_digest
from holdfast.database.engine import create_engine
from holdfast.database.roles import DEFINER_ROLE, LOGIN_ROLES
from holdfast.database.version import SchemaVersion, newest_known
from holdfast.runs.restoring import Reconciled, reconcile
from holdfast.settings import read_key_file

if TYPE_CHECKING:
    from temporalio.converter import DataConverter

_TEMPORAL_PATIENCE_S: Final = 90.0
_TEMPORAL_PAUSE_S: Final = 2.0
_COMMENT: Final = "SELECT obj_description(to_regclass('public.alembic_version'), 'pg_class')"
_RELATIONS: Final = """
    SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Three databases that a backup is restored into.

    Attributes:
        holdfast: As a superuser.
        temporal: As the role that owns it.
        visibility: As the role that owns it.
    """

    holdfast: str
    temporal: str
    visibility: str


async def _connect(url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(url, timeout=10, server_settings={"application_name": "holdfast-restore"})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise RestoreRefused(
            f"cannot connect to the database {make_url(url).database}: {error}",
            remedy="make roles and empty databases first: docs/how-to/back-up-and-restore.md",
        ) from None


async def _refuse_content(url: str) -> int:
    """Makes sure that a database is empty; returns the server's major version."""
    connection = await _connect(url)
    try:
        if await connection.fetchval(_RELATIONS):
            raise RestoreRefused(
                f"the database {make_url(url).database} is not empty; a restore never writes over anything",
                remedy="name an empty one, or drop and make it anew if an interrupted restore has left it",
            )
        major: int = connection.get_server_version().major
        return major
    finally:
        await connection.close()


async def _refuse_missing_roles(url: str) -> None:
    connection = await _connect(url)
    try:
        wanted = {*LOGIN_ROLES, DEFINER_ROLE}
        there = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
        if missing := sorted(wanted - there):
            raise RestoreRefused(
                f"that server has no role {', '.join(missing)}", remedy="run `python -m holdfast.database.roles` first"
            )
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            raise RestoreRefused("the URL of Holdfast's database is not a superuser's")
    finally:
        await connection.close()


async def load(path: Path, servers: Servers, *, say: Callable[[str], None]) -> Manifest:
    """Loads all three databases, which have to be empty; no process of Holdfast starts on them until `finish` was run.

    Raises:
        BackupInvalid: It cannot be trusted; nothing was restored.
        RestoreRefused: A database is not empty, or roles are missing; nothing was changed.
        RestoreFailed: A database could not be loaded; what was loaded before it is named.
    """
    manifest = await check(path, say)
    if manifest.store != "postgresql":
        raise RestoreRefused(f"{path} was taken of an embedded stack", remedy="restore it with `holdfast restore`")
    # Temporal's first: should it end in between, Holdfast's own is still empty, and nothing starts on it
    plan = ((TEMPORAL_MAIN, servers.temporal), (TEMPORAL_VISIBILITY, servers.visibility), (POSTGRES, servers.holdfast))
    majors = {name: await _refuse_content(url) for name, url in plan}
    await _refuse_missing_roles(servers.holdfast)
    draft = Path(tempfile.mkdtemp(prefix="holdfast-restore-"))
    loaded: list[str] = []
    try:
        await asyncio.to_thread(archive.extract, path, manifest, lambda name: not name.startswith(SECRETS), draft)
        for name, url in plan:
            try:
                await postgres_tools.load(url, draft / name, server_major=majors[name], say=say, own=name != POSTGRES)
            except RestoreFailed as error:
                left = f"; loaded before, to be dropped: {', '.join(loaded)}" if loaded else ""
                raise RestoreFailed(f"{error.message}{left}") from None
            loaded.append(str(make_url(url).database))
        await _mark(servers.holdfast, manifest.versions.schema_version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


async def _mark(url: str, version: str) -> None:
    """Keeps every process from starting until the restore is finished."""
    connection = await _connect(url)
    try:
        found = SchemaVersion.parse(await connection.fetchval(_COMMENT)) or SchemaVersion(version, version)
        marked = SchemaVersion(found.version, found.oldest_program, restoring=True)
        await connection.execute(f"COMMENT ON TABLE alembic_version IS '{marked.comment}'")
    finally:
        await connection.close()


async def finish(
    path: Path,
    superuser_url: str,
    *,
    temporal_address: str,
    namespace: str,
    codec_key_file: Path,
    resume: bool,
    say: Callable[[str], None],
) -> tuple[Manifest, Reconciled]:
    """Puts right what the restored states do not know of each other; afterwards processes may start.

    Raises:
        RestoreRefused: There is no unfinished restore, its schema is not this version's, or the key is another.
        RestoreFailed: Temporal does not answer.
    """
    from holdfast.codec import data_converter

    manifest = await check(path, say)
    key = read_key_file(codec_key_file)
    _refuse_other_key(manifest, codec_key_file)
    connection = await _connect(superuser_url)
    try:
        version = SchemaVersion.parse(await connection.fetchval(_COMMENT))
        if version is None or not version.restoring:
            raise RestoreRefused("no restore into this database waits to be finished")
        if version.version != newest_known():
            raise RestoreRefused(
                f"the restored schema is {version.version}; this program needs {newest_known()}",
                remedy="run `python -m holdfast.database.migrate`, then this again",
            )
        done = await _reconcile(
            manifest, superuser_url, temporal_address, namespace, data_converter(key), resume=resume, say=say
        )
        ready = SchemaVersion(version.version, version.oldest_program)
        await connection.execute(f"COMMENT ON TABLE alembic_version IS '{ready.comment}'")
    finally:
        await connection.close()
    return manifest, done


async def _reconcile(
    manifest: Manifest,
    superuser_url: str,
    address: str,
    namespace: str,
    converter: DataConverter,
    *,
    resume: bool,
    say: Callable[[str], None],
) -> Reconciled:
    """Waits for a Temporal that is still finding its own parts, the old ones of which stand in the restored database as well."""
    from temporalio.client import Client  # a good part of a second
    from temporalio.service import RPCError

    engine = create_engine(superuser_url, process="restore", pool_size=2)
    deadline = time.monotonic() + _TEMPORAL_PATIENCE_S
    try:
        while True:
            try:
                client = await Client.connect(address, namespace=namespace, data_converter=converter)
                return await reconcile(engine, client, resume=resume, taken_at=manifest.point.at)
            except (RPCError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise RestoreFailed(
                        f"Temporal at {address} does not do what it is asked: {error}",
                        remedy="start it on the restored databases, and run this again",
                    ) from None
                say(f"Temporal at {address} is not ready ({error}); asking again")
            await asyncio.sleep(_TEMPORAL_PAUSE_S)
    finally:
        await engine.dispose()


def _refuse_other_key(manifest: Manifest, codec_key_file: Path) -> None:
    expected = manifest.key_digests.get("codec.key")
    if expected is not None and key_digest("codec.key", codec_key_file) != expected:
        raise RestoreRefused(f"{codec_key_file} is not the codec key that this backup was made with")
