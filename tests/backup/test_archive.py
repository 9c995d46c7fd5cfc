"""An archive is whole or it is refused: every byte counts, the end is there, and a newer form is named as such."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.backup import archive
from cli.backup.errors import BackupFailed, BackupInvalid
from cli.backup.manifest import Manifest, Point, Versions

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def made(folder: Path, **more: Any) -> Manifest:  # Any: fields of any type
    fields: dict[str, Any] = {
        "created_at": _NOW,
        "source": "a test",
        "versions": Versions(holdfast="1", schema_version="0001", postgres="18", temporal="1"),
        "point": Point(at=_NOW, writes_stopped_ms=3),
        "store": "sqlite",
        "tenants": 1,
        "open_runs": 0,
        "secrets": True,
        "key_digests": {},
        "members": archive.members_of(folder),
    }
    return Manifest(**{**fields, **more})


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    (folder / "secrets").mkdir(parents=True)
    (folder / "dump").write_bytes(bytes(range(256)) * 5)
    (folder / "secrets" / "vault.key").write_text("not a key")
    return folder


@pytest.fixture
def whole(tmp_path: Path, content: Path) -> Path:
    path = tmp_path / "backup.tar"
    archive.write_archive(path, content, made(content))
    return path


def test_it_comes_back_as_it_was_and_only_its_owner_can_read_it(tmp_path: Path, content: Path, whole: Path) -> None:
    assert whole.stat().st_mode & 0o777 == 0o600
    manifest = archive.verify(whole)
    assert manifest == archive.read_manifest(whole) == made(content)
    archive.extract(whole, manifest, lambda name: name.startswith("secrets/"), tmp_path / "out")
    assert archive.members_of(tmp_path / "out") == manifest.members[1:]
    assert (tmp_path / "out" / "secrets" / "vault.key").stat().st_mode & 0o777 == 0o600


def test_it_is_an_ordinary_tar_that_other_programs_can_check(whole: Path, content: Path) -> None:
    with tarfile.open(whole) as tar:
        names = tar.getnames()
        last = tar.getmembers()[-1]
        seal = tar.extractfile(last)
        assert seal is not None
        assert seal.read().decode().strip() == hashlib.sha256(whole.read_bytes()[: last.offset]).hexdigest()
    assert names == ["manifest.json", "dump", "secrets/vault.key", "SHA256"]


def test_a_flipped_byte_is_noticed_wherever_it_is(tmp_path: Path, whole: Path) -> None:
    good = whole.read_bytes()
    bad = tmp_path / "bad.tar"
    for at in {*range(0, len(good), 41), *range(0, 1024, 5), *range(len(good) - 600, len(good), 7)}:
        bad.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        with pytest.raises(BackupInvalid):
            archive.verify(bad)


def test_one_that_is_cut_off_or_goes_on_is_noticed(tmp_path: Path, whole: Path) -> None:
    good = whole.read_bytes()
    bad = tmp_path / "bad.tar"
    for size in range(0, len(good), 61):
        bad.write_bytes(good[:size])
        with pytest.raises(BackupInvalid):
            archive.verify(bad)
    for more in (b"\0", b"x" * 512):
        bad.write_bytes(good + more)
        with pytest.raises(BackupInvalid, match="its end is not what was written"):
            archive.verify(bad)


def test_what_is_no_backup_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with pytest.raises(BackupInvalid, match="No such file"):
        archive.verify(path)
    path.write_text("hello")
    with pytest.raises(BackupInvalid):
        archive.verify(path)
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("other"), io.BytesIO())
    for read in (archive.verify, archive.read_manifest):
        with pytest.raises(BackupInvalid, match="is no backup of Holdfast"):
            read(path)


def test_a_newer_form_is_not_called_damaged(tmp_path: Path, content: Path) -> None:
    path = tmp_path / "newer.tar"
    archive.write_archive(path, content, made(content, format_version=2))
    for read in (archive.verify, archive.read_manifest):
        with pytest.raises(BackupInvalid, match=r"made by a newer version of Holdfast \(form 2; this one knows 1\)"):
            read(path)
    text = json.dumps({"format": "holdfast-backup", "format_version": 3, "something": "else"}).encode()
    with tarfile.open(path, "w") as tar:
        header = tarfile.TarInfo("manifest.json")
        header.size = len(text)
        tar.addfile(header, io.BytesIO(text))
    with pytest.raises(BackupInvalid, match="made by a newer version"):
        archive.verify(path)


def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, content: Path) -> None:
    """Whoever can seal an archive could have written it; still it writes nowhere else."""
    (content / "dump").rename(content / "evil")
    members = tuple(
        member.model_copy(update={"name": member.name.replace("evil", "../evil")})
        for member in archive.members_of(content)
    )
    (content.parent / "evil").write_bytes((content / "evil").read_bytes())
    path = tmp_path / "evil.tar"
    archive.write_archive(path, content, made(content, members=members))
    with pytest.raises(BackupInvalid, match=r"\.\./evil is no member of a backup"):
        archive.verify(path)


def test_nothing_is_written_over_and_no_part_is_left(tmp_path: Path, content: Path, whole: Path) -> None:
    before = whole.read_bytes()
    with pytest.raises(BackupFailed, match="is there already"):
        archive.write_archive(whole, content, made(content))
    assert whole.read_bytes() == before
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # as a full disk does
    try:
        with pytest.raises(BackupFailed, match=r"cannot write .*: File too large"):
            archive.write_archive(tmp_path / "other.tar", content, made(content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "content"]
