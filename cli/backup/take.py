"""Taking a backup: one point, copies of both states, the keys, one archive."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from cli.backup import archive, objects, postgres_tools
from cli.backup.errors import BackupFailed
from cli.backup.manifest import OBJECTS, POSTGRES, SECRETS, Manifest, Point, Versions
from cli.backup.point import Snapshot, consistent_point
from cli.backup.progress import megabytes, telling
from cli.backup.source import Source, check_folder, key_digests, opened
from cli.stack.data_folder import DataFolder


def default_target(folder: DataFolder, now: datetime) -> Path:
    """Returns where a backup goes for which no place is named."""
    return folder.backups / f"holdfast-{now:%Y%m%dT%H%M%SZ}.tar"


def _draft_folder(target: Path) -> Path:
    """Makes the folder in which the parts are collected; what dead processes have left there is removed."""
    if target.exists():
        raise BackupFailed(f"{target} is there already", remedy="name another file with --to")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in target.parent.glob(f".{target.name}.*.draft"):
            pid = old.name.split(".")[-2]
            if not pid.isdecimal() or not Path(f"/proc/{pid}").exists():
                shutil.rmtree(old, ignore_errors=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
        draft.mkdir(mode=0o700)
    except OSError as error:
        raise BackupFailed(
            f"cannot write to {target.parent}: {error.strerror}", remedy="name another place with --to"
        ) from None
    return draft


async def take(
    folder: DataFolder,
    target: Path,
    *,
    superuser_url: str | None = None,
    with_secrets: bool = True,
    say: Callable[[str], None],
) -> Manifest:
    """Takes a backup of an embedded stack, which may go on working meanwhile.

    Args:
        folder: Its data folder.
        target: The archive; must not exist.
        superuser_url: A superuser's URL, if PostgreSQL is one of the user's own.
        with_secrets: Whether the keys go into the archive.
        say: Gets a line about what is done.

    Raises:
        BackupFailed: It could not be taken; nothing of it is left.
    """
    check_folder(folder, superuser_url)
    return await _take(target, opened(folder, superuser_url, say), with_secrets=with_secrets, say=say)


async def take_servers(target: Path, source: Source, *, say: Callable[[str], None]) -> Manifest:
    """Takes a backup of servers of one's own; the keys go into it if the source names a folder that has them.

    Raises:
        BackupFailed: It could not be taken; nothing of it is left.
    """
    return await _take(target, nullcontext(source), with_secrets=source.secrets is not None, say=say)


async def _take(
    target: Path,
    opening: AbstractAsyncContextManager[Source],
    *,
    with_secrets: bool,
    say: Callable[[str], None],
) -> Manifest:
    draft = _draft_folder(target)
    try:
        async with opening as source:
            snapshot = await _copy(source, draft, say)
        if with_secrets and source.secrets is not None:
            shutil.copytree(source.secrets, draft / SECRETS, ignore=shutil.ignore_patterns(".*"))
        manifest = _describe(source, snapshot, draft, with_secrets=with_secrets)
        async with telling(say, "writing the archive", lambda: f"{megabytes(manifest.size)} in all"):
            await asyncio.to_thread(archive.write_archive, target, draft, manifest)
    except OSError as error:
        raise BackupFailed(
            f"cannot write the backup: {error.strerror}", remedy="make room, or name another place with --to"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


async def _copy(source: Source, draft: Path, say: Callable[[str], None]) -> Snapshot:
    temporal = source.temporal
    try:
        await temporal.prepare()
        async with consistent_point(source.database_url, temporal.open, say) as snapshot:
            await temporal.copy_to(draft, say)
            await postgres_tools.dump(
                source.database_url,
                draft / POSTGRES,
                snapshot=snapshot.name,
                server_major=snapshot.server_major,
                say=say,
            )
    finally:
        await temporal.close()
    # INVARIANT (LAW 4): after the point, so that no row of it names a content that was not there yet
    if source.objects is not None and source.objects.is_dir():
        await _pack_objects(source.objects, draft / OBJECTS, say)
    return snapshot


async def _pack_objects(folder: Path, target: Path, say: Callable[[str], None]) -> None:
    done = 0

    def note(size: int) -> None:
        nonlocal done
        done = size

    async with telling(say, "packing the files of runs", lambda: megabytes(done)):
        await asyncio.to_thread(objects.pack, folder, target, progress=note)


def _describe(source: Source, snapshot: Snapshot, draft: Path, *, with_secrets: bool) -> Manifest:
    return Manifest(
        created_at=datetime.now(UTC).replace(microsecond=0),
        source=source.label,
        versions=Versions(
            holdfast=importlib.metadata.version("holdfast"),
            schema_version=snapshot.schema.version,
            postgres=snapshot.server,
            temporal=source.temporal.version,
        ),
        point=Point(at=snapshot.at, writes_stopped_ms=snapshot.writes_stopped_ms),
        store=source.temporal.store,
        tenants=snapshot.tenants,
        open_runs=snapshot.open_runs,
        secrets=with_secrets,
        key_digests={} if source.secrets is None else key_digests(source.secrets),
        members=archive.members_of(draft),
    )
