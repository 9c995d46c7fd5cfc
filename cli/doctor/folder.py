"""The data folder of the embedded stack, its secrets, and the ports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cli.doctor.finding import Finding, failed, ok, warning
from cli.stack.data_folder import DataFolder
from cli.stack.errors import DataFolderInvalid
from holdfast.errors import ConfigurationInvalid

_MIB: Final = 1024 * 1024
_FREE_MIB_MIN: Final = 256
_FREE_MIB_GOOD: Final = 2_048
_OTHERS: Final = 0o077
_KEYS: Final = ("permit.key", "permit.pub", "vault.key", "codec.key")


def data_folder(folder: DataFolder) -> Iterator[Finding]:
    """Looks at the folder: whether it can be written, and how much room is left."""
    part, path = "data folder", folder.path
    there = path
    while not there.exists():
        there = there.parent
    if path.exists() and not path.is_dir():
        yield failed(part, f"{path} is no folder", "choose another with --data-dir")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield failed(part, f"{there} cannot be written by this user", "choose another with --data-dir, or be its owner")
    elif path.exists() and path.stat().st_uid != os.geteuid():
        yield failed(
            part, f"{path} belongs to user {path.stat().st_uid}", "choose another with --data-dir, or be its owner"
        )
    else:
        yield ok(part, f"{path}" if path.exists() else f"{path}: not there yet, `holdfast up` makes it")
    yield _room(there)


def _room(there: Path) -> Finding:
    free_mib = shutil.disk_usage(there).free // _MIB
    what = f"{free_mib:,} MiB free at {there}"
    if free_mib < _FREE_MIB_MIN:
        return failed("disk", what, "make room: PostgreSQL and Temporal stop when the disk is full")
    if free_mib < _FREE_MIB_GOOD:
        return warning("disk", what, "make room soon")
    return ok("disk", what)


def secrets(folder: DataFolder) -> Iterator[Finding]:
    """Looks at keys and passwords: whether they are all there, whole, and nobody else's to read."""
    from cli.stack.secrets import LOG_KEY, check_files
    from holdfast.settings import read_key_file, read_secret_file
    from holdfast.transparency.keys import KeyLines

    part, where = "secrets", folder.secrets
    has_data = (folder.postgres / "data" / "PG_VERSION").exists() or folder.state_file.exists()
    if not where.exists():
        if has_data:
            yield failed(
                part,
                f"{where} is missing, but the data beside it was written with the keys that lay there",
                "restore it from a backup, or start with a new --data-dir",
            )
        return
    try:
        check_files(where)
        for name in _KEYS:
            read_key_file(where / name)
        if (where / LOG_KEY).exists():
            KeyLines.parse(read_secret_file(where / LOG_KEY), str(where / LOG_KEY))
    except (DataFolderInvalid, ConfigurationInvalid) as error:
        yield failed(part, error.message, error.remedy or "restore it from a backup")
        return
    except PermissionError as error:
        yield failed(part, f"{error.filename} cannot be read by this user", "be the owner of the data folder")
        return
    if not (where / LOG_KEY).exists():
        yield warning(
            part, f"{where / LOG_KEY} is not there", "`holdfast up` makes it; a log that had one needs that one"
        )
    yield ok(part, f"{len(_KEYS)} keys and the passwords are whole, and only their owner can read them")
    yield from _bootstrap_key(where / "bootstrap.key")


def _bootstrap_key(file: Path) -> Iterator[Finding]:
    part = "first API key"
    if not file.exists():
        yield warning(
            part, f"{file} is not there", "`holdfast up` writes it on the first start; lost, make one with another key"
        )
    elif file.stat().st_mode & _OTHERS:
        yield failed(part, f"{file} can be read by others", f"chmod go-rwx {file}")
    else:
        yield ok(part, f"in {file}")


def ports(folder: DataFolder) -> Iterator[Finding]:
    """Looks whether the ports are free that `holdfast up` would take, and who has them otherwise."""
    from cli.stack.ports import Ports, is_free, listener

    if folder.running_pid() is not None:
        return  # they are taken by what should have them
    taken = {name: port for name, port in asdict(Ports()).items() if not is_free(port)}
    for name, port in taken.items():
        yield warning(
            f"port {port}",
            f"for {name}, is taken {listener(port)}",
            "stop that, or `holdfast up --port-base 0` picks free ones",
        )
    if not taken:
        yield ok("ports", "all that `holdfast up` takes are free: " + ", ".join(map(str, asdict(Ports()).values())))
