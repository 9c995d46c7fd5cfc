"""Which process holds which secret, and the folders that give each process its own and no other's (LAW 1).

A secrets folder has `master`, from which everything else can be made again, and beside it a folder for each process.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from cli.stack.data_folder import write_atomically
from cli.stack.errors import DataFolderInvalid
from cli.stack.secrets import LOG_KEY, SUPERUSER, Secrets, load_or_create
from holdfast.database.roles import DATABASE, TEMPORAL_ROLE

MASTER: Final = "master"
_OWN_MODE: Final = 0o600
_FOREIGN_MODE: Final = 0o444


@dataclass(frozen=True, slots=True)
class Places:
    """Where the servers are, as the processes reach them.

    Attributes:
        postgres: host:port.
        redis: host:port.
        superuser: Where the superuser comes in: host:port, or the folder of PostgreSQL's socket.
    """

    postgres: str = "postgres:5432"
    redis: str = "redis:6379"
    superuser: str = "/var/run/postgresql"


@dataclass(frozen=True, slots=True)
class _Values:
    """What the files are made from."""

    secrets: Secrets
    temporal_password: str
    places: Places

    def database_url(self, role: str) -> str:
        return f"postgresql://{role}:{self.secrets.database_passwords[role]}@{self.places.postgres}/{DATABASE}"

    def superuser_url(self) -> str:
        login = f"postgresql://{SUPERUSER}:{self.secrets.database_passwords[SUPERUSER]}@"
        if not self.places.superuser.startswith("/"):
            return f"{login}{self.places.superuser}/{DATABASE}"
        port = self.places.postgres.rpartition(":")[2]
        return f"{login}/{DATABASE}?host={quote(self.places.superuser, safe='')}&port={port}"

    def role_passwords(self) -> str:
        passwords = {role: word for role, word in self.secrets.database_passwords.items() if role != SUPERUSER}
        return json.dumps({**passwords, TEMPORAL_ROLE: self.temporal_password}, indent=2)


def _url(role: str) -> Callable[[_Values], str]:
    return lambda values: values.database_url(role)


def _key(name: str) -> Callable[[_Values], str]:
    return lambda values: (values.secrets.folder / name).read_text(encoding="ascii").strip()


_REDIS_URL: Final = {
    "redis_url": lambda values: f"redis://:{values.secrets.valkey_password}@{values.places.redis}/0",
}
_CODEC_KEY: Final = {"codec_key": _key("codec.key")}

FILES: Final[Mapping[str, Mapping[str, Callable[[_Values], str]]]] = MappingProxyType(
    {
        "api": {"api_database_url": _url("holdfast_api"), **_REDIS_URL, **_CODEC_KEY},
        "governor": {
            "governor_database_url": _url("holdfast_governor"),
            "sweeper_database_url": _url("holdfast_sweeper"),
            "permit_key": _key("permit.key"),
            "log_key": _key(LOG_KEY),
            **_REDIS_URL,
            **_CODEC_KEY,
        },
        "broker": {
            "broker_database_url": _url("holdfast_broker"),
            "vault_key": _key("vault.key"),
            "permit_public_key": _key("permit.pub"),
        },
        "executor": {
            "executor_database_url": _url("holdfast_executor"),
            "permit_public_key": _key("permit.pub"),
            **_REDIS_URL,
            **_CODEC_KEY,
        },
        "roles": {"superuser_url": _Values.superuser_url, "role_passwords.json": _Values.role_passwords},
        "migrations": {"owner_database_url": _url("holdfast_owner")},
        "bootstrap": {
            "api_database_url": _url("holdfast_api"),
            "broker_database_url": _url("holdfast_broker"),
            "vault_key": _key("vault.key"),
        },
        "auditor": {"auditor_database_url": _url("holdfast_auditor")},
        "postgres": {"superuser_password": lambda values: values.secrets.database_passwords[SUPERUSER]},
        "redis": {"valkey.conf": lambda values: f"requirepass {values.secrets.valkey_password}"},
        "temporal": {"database_password": lambda values: values.temporal_password},
    }
)
"""The files of each process; those of Holdfast's own are named like the settings that name them."""

FOREIGN: Final = frozenset({"postgres", "redis", "temporal"})
"""Programs that are not Holdfast's: in a container each has an account of its own, so its folder alone is the boundary."""


def make(folder: Path, places: Places) -> list[Path]:
    """Makes what is missing, and writes every process's files anew from the master; returns those that changed.

    Raises:
        DataFolderInvalid: The master is gone while processes have secrets, or a file of it is damaged or open to others.
    """
    master = folder / MASTER
    given = [process for process in FILES if (folder / process).is_dir() and any((folder / process).iterdir())]
    keys = master / "keys"
    if given and not keys.exists():
        raise DataFolderInvalid(
            f"{keys} is missing, but {', '.join(given)} have secrets that were made from it",
            remedy="restore it from a backup; new secrets would open neither the databases nor the vault",
        )
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        master.mkdir(mode=0o700, exist_ok=True)
        with (master / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
            values = _Values(load_or_create(keys, data_exists=False), _temporal_password(master), places)
            return [path for process in FILES for path in _write(folder / process, process, values)]
    except OSError as error:
        raise DataFolderInvalid(f"cannot write to {folder}: {error}") from None


def _temporal_password(master: Path) -> str:
    path = master / "temporal.password"
    if not path.exists():
        write_atomically(path, secrets.token_hex(24) + "\n")
    return path.read_text(encoding="ascii").strip()


def _write(folder: Path, process: str, values: _Values) -> list[Path]:
    """Writes one process's files: those that changed only, so that nobody who reads them is disturbed."""
    foreign = process in FOREIGN
    folder.mkdir(mode=0o755 if foreign else 0o700, exist_ok=True)
    mode = _FOREIGN_MODE if foreign else _OWN_MODE
    changed = []
    for name, content in FILES[process].items():
        path, text = folder / name, content(values) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode:
            continue
        write_atomically(path, text)
        os.chmod(path, mode)  # noqa: PTH101 (a file of another mode is never seen half written)
        changed.append(path)
    return changed
