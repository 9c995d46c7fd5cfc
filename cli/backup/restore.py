"""Restoring: into a new data folder, which takes its name when everything in it is right."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import asyncpg
from sqlalchemy.engine import make_url

from cli.backup import archive, objects, postgres_tools, temporal_sqlite
from cli.backup.errors import BackupInvalid, RestoreFailed, RestoreRefused
from cli.backup.manifest import OBJECTS, POSTGRES, SECRETS, TEMPORAL_SQLITE, Manifest
from cli.backup.progress import megabytes, telling
from cli.backup.source import KEY_FILES, key_digests
from cli.stack.data_folder import DataFolder
from cli.stack.secrets import load_or_create
from cli.stack.supervisor import Part, Stack
from cli.stack.temporal import NAMESPACE
from holdfast.database.engine import create_engine
from holdfast.database.roles import database_of
from holdfast.database.version import newest_known
from holdfast.runs.restoring import Reconciled, reconcile
from holdfast.settings import read_key_file

_SERVERS: Final[frozenset[Part]] = frozenset({"postgres", "temporal", "migrations"})


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    manifest: Manifest
    folder: Path
    reconciled: Reconciled
    files: Files


@dataclass(frozen=True, slots=True)
class Files:
    """What became of the files of runs.

    Attributes:
        named: How many the rows name.
        included: Whether the backup has contents at all; else they are kept elsewhere, as in S3.
        lost: Those whose content is not there, `run/name`; always empty where contents are kept elsewhere.
    """

    named: int
    included: bool
    lost: tuple[str, ...]


async def check(path: Path, say: Callable[[str], None]) -> Manifest:
    """Checks every byte of a backup, and whether this version can restore it.

    Raises:
        BackupInvalid: It is damaged, or of a newer version.
    """
    done = 0

    def note(size: int) -> None:
        nonlocal done
        done = size

    async with telling(say, f"checking {path.name}", lambda: megabytes(done)):
        manifest = await asyncio.to_thread(archive.verify, path, progress=note)
    if manifest.versions.schema_version > newest_known():
        raise BackupInvalid(
            f"{path} was taken of schema {manifest.versions.schema_version}, which is newer than this version's "
            f"({newest_known()})",
            remedy=f"restore it with Holdfast {manifest.versions.holdfast} or later",
        )
    return manifest


async def restore(
    path: Path,
    folder: DataFolder,
    *,
    resume: bool = False,
    secrets: Path | None = None,
    superuser_url: str | None = None,
    say: Callable[[str], None],
) -> Restored:
    """Restores a backup into a new data folder.

    Args:
        path: The archive.
        folder: Where to; must not be there.
        resume: Whether runs that were under way go on by themselves.
        secrets: A folder with the keys, for a backup without.
        superuser_url: A superuser's URL, to restore into a new database of a server of one's own.
        say: Gets a line about what is done.

    Raises:
        BackupInvalid: It cannot be trusted; nothing was restored.
        RestoreRefused: There is something already, or the keys do not fit; nothing was changed.
        RestoreFailed: It failed in the middle; nothing is left of it.
    """
    manifest = await check(path, say)
    if manifest.store != "sqlite":
        raise RestoreRefused(
            f"{path} was taken of servers apart, with Temporal on PostgreSQL",
            remedy="restore it with `holdfast restore-servers`",
        )
    _refuse_existing(folder)
    with _draft(folder, say) as draft:
        await asyncio.to_thread(_unpack, path, manifest, draft, secrets)
        async with _database(draft, superuser_url) as url:
            async with Stack(draft.path, ports="free", parts={"postgres"}, postgres_url=url, headless=True) as stack:
                major = await _server_major(stack.superuser_url)
                dump = draft.path / POSTGRES_DRAFT
                await postgres_tools.load(stack.superuser_url, dump, server_major=major, say=say)
            say("both states are back; putting right what they do not know of each other")
            reconciled, files = await _reconcile(draft, url, manifest, resume=resume, say=say)
            _tidy(draft)
            try:
                draft.path.rename(folder.path)
            except OSError as error:
                raise RestoreRefused(f"{folder.path} has come to be meanwhile: {error.strerror}") from None
    return Restored(manifest, folder.path, reconciled, files)


POSTGRES_DRAFT: Final = "restoring.dump"


def _refuse_existing(folder: DataFolder) -> None:
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise RestoreRefused(
            f"{folder.path} is there already; a restore never writes over anything",
            remedy="name a new folder with --data-dir, or move that one away",
        )


@contextmanager
def _draft(folder: DataFolder, say: Callable[[str], None]) -> Iterator[DataFolder]:
    """Yields the folder in which the new one is made; it is removed unless it was renamed, also one that a crash has left."""
    path = folder.path.with_name(f".{folder.path.name}.restoring")
    with _alone(folder, path.with_name(f"{path.name}.lock")):
        try:
            if path.exists():
                say(f"removing {path}, which an interrupted restore has left")
                shutil.rmtree(path, onerror=_unless_gone)
            draft = DataFolder(path)
            draft.create()
            yield draft
        except OSError as error:
            raise RestoreFailed(
                f"cannot write {path}: {error.strerror}", remedy="make room, and restore again"
            ) from None
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _unless_gone(_: object, __: str, raised: tuple[type[BaseException], BaseException, TracebackType]) -> None:
    """Minds what cannot be removed, but not what the servers of a killed restore, ending, have removed themselves."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


@contextmanager
def _alone(folder: DataFolder, guard: Path) -> Iterator[None]:
    """Lets one restore into a folder at a time; the kernel gives the lock up however it ends."""
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(guard, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RestoreRefused(
            f"cannot write to {guard.parent}: {error.strerror}", remedy="choose another --data-dir"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RestoreRefused(f"another restore into {folder.path} is under way") from None
    try:
        yield
    finally:
        guard.unlink(missing_ok=True)
        os.close(descriptor)


def _unpack(path: Path, manifest: Manifest, draft: DataFolder, secrets: Path | None) -> None:
    """Puts keys, Temporal's file and PostgreSQL's dump into the draft."""
    if secrets is None and not manifest.secrets:
        raise RestoreRefused(
            f"{path} was taken without the secrets, and what is in it cannot be read without them",
            remedy="name the folder that has them with --secrets: it is `secrets/` of the data folder that was backed up",
        )
    staging = draft.path / "staging"
    kept = (lambda name: not name.startswith(SECRETS)) if secrets is not None else (lambda _: True)
    archive.extract(path, manifest, kept, staging)
    source = staging / SECRETS if secrets is None else secrets
    _take_secrets(source, draft.secrets, manifest)
    temporal_sqlite.unpack(staging / TEMPORAL_SQLITE, draft.temporal / "temporal.db")
    (staging / POSTGRES).rename(draft.path / POSTGRES_DRAFT)
    if manifest.has(OBJECTS):
        objects.unpack(staging / OBJECTS, draft.objects)
    shutil.rmtree(staging)


def _take_secrets(source: Path, target: Path, manifest: Manifest) -> None:
    try:
        found = key_digests(source)
        wrong = [name for name in KEY_FILES if found.get(name) != manifest.key_digests.get(name)]
        if not wrong:
            shutil.copytree(source, target)
    except (OSError, UnicodeDecodeError) as error:
        raise RestoreRefused(f"cannot read the secrets in {source}: {error}") from None
    if wrong:
        raise RestoreRefused(
            f"the secrets in {source} are not those that this backup was made with ({', '.join(wrong)} missing or other)",
            remedy="name `secrets/` of the data folder that was backed up",
        )
    target.chmod(0o700)
    for file in target.iterdir():
        file.chmod(0o600)
    load_or_create(target, data_exists=True)


@asynccontextmanager
async def _database(draft: DataFolder, superuser_url: str | None) -> AsyncIterator[str | None]:
    """Yields the URL of a server of one's own; a database that was made there is dropped again if the block fails."""
    if superuser_url is None:
        yield None
        return
    name = database_of(superuser_url)
    server = make_url(superuser_url).set(drivername="postgresql", database="postgres")
    connection = await asyncpg.connect(server.render_as_string(hide_password=False), timeout=10)
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            raise RestoreRefused(
                f"there is a database {name} on that server already; a restore never writes over anything",
                remedy="name another database in the URL, or drop that one if an interrupted restore has left it",
            )
        try:
            yield superuser_url
        except BaseException:
            quoted = await connection.fetchval("SELECT quote_ident($1)", name)
            await connection.execute(f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")
            raise
    finally:
        await connection.close()


async def _server_major(url: str) -> int:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        major: int = connection.get_server_version().major
        return major
    finally:
        await connection.close()


async def _reconcile(
    draft: DataFolder, url: str | None, manifest: Manifest, *, resume: bool, say: Callable[[str], None]
) -> tuple[Reconciled, Files]:
    """Migrates, starts Temporal, and puts right what the states do not know of each other; no worker runs meanwhile."""
    from temporalio.client import Client  # a good part of a second, and only a restore needs it here

    from holdfast.codec import data_converter

    (draft.path / POSTGRES_DRAFT).unlink()
    async with Stack(
        draft.path, ports="free", parts=_SERVERS, postgres_url=url, headless=True, say=_only_the_schema(say)
    ) as stack:
        converter = data_converter(read_key_file(stack.secrets.codec_key_file))
        client = await Client.connect(stack.urls.temporal, namespace=NAMESPACE, data_converter=converter)
        engine = create_engine(stack.superuser_url, process="restore", pool_size=2)
        try:
            reconciled = await reconcile(engine, client, resume=resume, taken_at=manifest.point.at)
            named, lost = await objects.lost(engine, draft.objects)
            included = manifest.has(OBJECTS)
            return reconciled, Files(named, included, tuple(lost) if included else ())
        finally:
            await engine.dispose()


def _only_the_schema(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(line) if "schema" in line or "migration" in line else None


def _tidy(draft: DataFolder) -> None:
    """Removes what speaks of the servers that ran for the restore only."""
    for path in (draft.state_file, draft.lock_file):
        path.unlink(missing_ok=True)
    for log in draft.logs.iterdir():
        log.unlink()
