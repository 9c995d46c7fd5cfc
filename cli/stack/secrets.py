"""The stack's own keys and passwords: made once, all together, readable by its owner only."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.stack.data_folder import write_atomically
from cli.stack.errors import DataFolderInvalid
from holdfast.database.roles import LOGIN_ROLES

SUPERUSER = "postgres"
_DATABASE_USERS = (SUPERUSER, *LOGIN_ROLES)
LOG_KEY = "log.key"
_KEY_NAMES = ("permit.key", "permit.pub", "vault.key", "codec.key", "valkey.key", "database.json")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Where the key files lie, and the passwords of the servers that the stack starts."""

    folder: Path
    database_passwords: Mapping[str, str]
    valkey_password: str

    @property
    def permit_key_file(self) -> Path:
        """Ed25519 private key that signs permits."""
        return self.folder / "permit.key"

    @property
    def permit_public_key_file(self) -> Path:
        """Ed25519 public key of permits."""
        return self.folder / "permit.pub"

    @property
    def vault_key_file(self) -> Path:
        """Master key of the vault."""
        return self.folder / "vault.key"

    @property
    def codec_key_file(self) -> Path:
        """Key of the payload codec."""
        return self.folder / "codec.key"

    @property
    def log_key_file(self) -> Path:
        """Ed25519 private keys that sign the decision log's checkpoints; see `holdfast.transparency.keys`."""
        return self.folder / LOG_KEY

    @property
    def bootstrap_key_file(self) -> Path:
        """The first API key, written by the bootstrap."""
        return self.folder / "bootstrap.key"


def _write(folder: Path, name: str, content: str) -> None:
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())


def _create(folder: Path) -> None:
    """Makes all secrets in a draft folder that then takes its name in one step: never some without the others."""
    draft = Path(tempfile.mkdtemp(prefix=".secrets-", dir=folder.parent))
    try:
        permit_key = Ed25519PrivateKey.generate()
        raw = serialization.Encoding.Raw
        private = permit_key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
        _write(draft, "permit.key", private.hex())
        _write(draft, "permit.pub", permit_key.public_key().public_bytes(raw, serialization.PublicFormat.Raw).hex())
        for name in ("vault.key", "codec.key", "valkey.key", LOG_KEY):
            _write(draft, name, secrets.token_hex(32))
        _write(draft, "database.json", json.dumps({user: secrets.token_hex(24) for user in _DATABASE_USERS}, indent=2))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_files(folder: Path) -> None:
    """Makes sure that all secrets are there, and nobody else's to read.

    Raises:
        DataFolderInvalid: A secret is missing or readable by others.
    """
    # the log's key is newer than the others: a folder of an older version gets it with its next start
    names = (*_KEY_NAMES, LOG_KEY) if (folder / LOG_KEY).exists() else _KEY_NAMES
    for path in (folder, *(folder / name for name in names)):
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            raise DataFolderInvalid(f"{path} is missing", remedy="restore it from a backup") from None
        if mode & 0o077:
            raise DataFolderInvalid(f"{path} can be read by others (mode {mode:o})", remedy=f"chmod go-rwx {path}")


def load_or_create(folder: Path, *, data_exists: bool) -> Secrets:
    """Reads the secrets, or makes them for a new data folder.

    Args:
        folder: Where they lie.
        data_exists: Data written with earlier secrets is there, so that new ones would lock everybody out of it.

    Raises:
        DataFolderInvalid: A secret is missing, damaged or readable by others.
    """
    if not folder.exists():
        if data_exists:
            raise DataFolderInvalid(
                f"{folder} is missing, but the data beside it was written with the keys that lay there",
                remedy="restore it from a backup, or start with a new --data-dir",
            )
        _create(folder)
    elif folder.is_dir() and not (folder / LOG_KEY).exists():
        # a log that is known by another key is not signed by this one: then the sequencer says so, and the old one has to come back
        write_atomically(folder / LOG_KEY, secrets.token_hex(32) + "\n")
    check_files(folder)
    passwords = json.loads((folder / "database.json").read_text(encoding="ascii"))
    if missing := [user for user in _DATABASE_USERS if not isinstance(passwords.get(user), str)]:
        raise DataFolderInvalid(f"{folder / 'database.json'} has no password for {', '.join(missing)}")
    valkey_password = (folder / "valkey.key").read_text(encoding="ascii").strip()
    return Secrets(folder, MappingProxyType(passwords), valkey_password)
