"""The files of runs are in a backup with everything that names them, and come back by their digests or are said to be lost."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from cli.backup import archive, objects
from cli.backup.manifest import OBJECTS
from cli.backup.restore import restore
from cli.backup.take import take
from cli.backup.temporal_sqlite import TemporalFile
from cli.stack.data_folder import DataFolder
from holdfast.artefacts import reading
from holdfast.artefacts.objects import ObjectFolder
from holdfast.artefacts.storage import key_of
from holdfast.database.engine import transaction
from tests.run.harness import PERMIT_ALL, Rig, Run, call, say, task
from tests.run.rigs import running_rig

RULES = (*PERMIT_ALL, 'permit code.exec as "compute"')
MADE, GIVEN, LATE = b"made by code", b"given at the start", b"given while the backup was begun"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as rig:
        yield rig


async def run_with_files(rig: Rig) -> Run:
    tenant = await rig.tenant()
    script = task(call("code.exec", code=f"open('made.txt', 'w').write({MADE.decode()!r})"), say("done"))
    run = await tenant.start(script, rules=RULES, tools=("code.exec",))
    assert await run.ended() == "succeeded", await run.story()
    await give(rig, run, "given.txt", GIVEN)
    return run


async def give(rig: Rig, run: Run, name: str, content: bytes) -> None:
    tenant_id = run.tenant.tenant_id
    await ObjectFolder(rig.stack.folder.objects).put(tenant_id, content)
    async with transaction(rig.engine("api"), tenant_id) as connection:
        await reading.give(connection, tenant_id, run.run_id, {name: content})


async def test_every_file_that_a_row_names_comes_back_also_one_that_came_late(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await run_with_files(rig)
    tenant_id = run.tenant.tenant_id
    preparing = TemporalFile.prepare

    async def prepare(self: TemporalFile) -> None:
        await preparing(self)
        await give(rig, run, "late.txt", LATE)  # the backup has begun, and its point is still to come

    monkeypatch.setattr(TemporalFile, "prepare", prepare)
    half = rig.stack.folder.objects / str(tenant_id) / "aa" / "tmp0.part"
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"half written")
    await take(rig.stack.folder, tmp_path / "backup.tar", say=print)
    done = await restore(tmp_path / "backup.tar", DataFolder(tmp_path / "new"), say=print)
    assert (done.files.named, done.files.included, done.files.lost) == (3, True, ())
    restored = ObjectFolder(DataFolder(tmp_path / "new").objects)
    for content in (MADE, GIVEN, LATE):
        assert await restored.get(tenant_id, digest(content), len(content)) == content
    assert not list(DataFolder(tmp_path / "new").objects.rglob("*.part"))


async def test_what_was_lost_or_changed_before_is_said_and_everything_else_comes_back(rig: Rig, tmp_path: Path) -> None:
    run = await run_with_files(rig)
    tenant_id, kept = run.tenant.tenant_id, rig.stack.folder.objects
    (kept / key_of(tenant_id, digest(GIVEN))).write_bytes(b"forged at the start")
    (kept / key_of(tenant_id, digest(MADE))).unlink()
    await take(rig.stack.folder, tmp_path / "backup.tar", say=print)
    done = await restore(tmp_path / "backup.tar", DataFolder(tmp_path / "new"), say=print)
    assert {one for one in done.files.lost if str(run.run_id) in one} == {
        f"{run.run_id}/given.txt",
        f"{run.run_id}/made.txt",
    }
    assert not (DataFolder(tmp_path / "new").objects / key_of(tenant_id, digest(GIVEN))).exists()


def test_nothing_leaves_the_folder_of_objects_when_it_is_unpacked(tmp_path: Path) -> None:
    tenant_id, content = uuid4(), b"content"
    right = key_of(tenant_id, digest(content))
    names = [
        right,
        f"../{right}",
        f"/{right}",
        f"{tenant_id}/00/{digest(b'other')}",
        f"{tenant_id}/../x",
        key_of(tenant_id, digest(b"other")),
    ]
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo(key_of(tenant_id, digest(b"link")))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    objects.unpack(tmp_path / "evil.tar", tmp_path / "in" / "objects")
    found = [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(found) == sorted([tmp_path / "evil.tar", tmp_path / "in" / "objects" / right])


def test_a_backup_of_a_stack_without_files_has_none(tmp_path: Path) -> None:
    assert objects.pack(tmp_path / "not-there", tmp_path / OBJECTS) == 0


async def test_an_older_archive_without_files_says_that_they_are_elsewhere(rig: Rig, tmp_path: Path) -> None:
    await run_with_files(rig)
    away = rig.stack.folder.objects.with_name("objects-away")
    rig.stack.folder.objects.rename(away)
    try:
        await take(rig.stack.folder, tmp_path / "backup.tar", say=print)
    finally:
        away.rename(rig.stack.folder.objects)
    assert not archive.verify(tmp_path / "backup.tar").has(OBJECTS)
    done = await restore(tmp_path / "backup.tar", DataFolder(tmp_path / "new"), say=print)
    assert not done.files.included
    assert done.files.named >= 2
    assert done.files.lost == ()
