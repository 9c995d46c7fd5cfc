"""The keys that sign checkpoints, behind one small protocol: here a file, or a variable of the environment.

A key that never leaves its place (PKCS#11, a cloud's KMS) is another `KeySource` whose signers ask there; none is built.

Form: a line for each private key that signs, 64 hex digits, the newest first; and a line `retired` with the public key, 64 hex
digits, for each that signs no more. While two keys sign, whoever knows either can follow the log: that is how one takes over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.errors import ConfigurationInvalid
from holdfast.settings import FILE_SUFFIX, read_secret_file, variable

SIGNERS_MAX: Final = 4
"""Keys that may sign at a time."""

_SETTING: Final = variable("log_key")
_KEY = re.compile(r"[0-9a-f]{64}")
_RETIRED: Final = "retired "


class LogSigner(Protocol):
    """A key that signs checkpoints."""

    @property
    def public_key(self) -> bytes:
        """Its public half: Ed25519, 32 bytes."""

    async def sign(self, message: bytes) -> bytes:
        """Returns the Ed25519 signature over a message."""


@dataclass(frozen=True, slots=True)
class LogKeys:
    """What signs now.

    Attributes:
        signers: All of them sign every checkpoint; the newest comes first.
        retired: Public keys that sign no more.
    """

    signers: tuple[LogSigner, ...]
    retired: frozenset[bytes] = frozenset()


class KeySource(Protocol):
    """Where keys come from."""

    def read(self) -> LogKeys:
        """Returns the keys as they are now: it is asked before every checkpoint.

        Raises:
            ConfigurationInvalid: There are none, or they are malformed.
        """


@dataclass(frozen=True, slots=True, repr=False)
class LocalSigner:
    """A private key in this process's memory."""

    key: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        """See `LogSigner`."""
        return self.key.public_key().public_bytes_raw()

    async def sign(self, message: bytes) -> bytes:
        """See `LogSigner`."""
        return self.key.sign(message)


@dataclass(frozen=True, slots=True)
class KeyLines:
    """The lines of a key file, as text.

    Attributes:
        private: Private keys, hex, the newest first.
        retired: Public keys, hex, that sign no more.
    """

    private: tuple[str, ...]
    retired: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines."""
        return "".join(f"{line}\n" for line in (*self.private, *(f"{_RETIRED}{public}" for public in self.retired)))

    @classmethod
    def parse(cls, text: str, where: str) -> KeyLines:
        """Reads the lines.

        Args:
            text: What stands there.
            where: Its place, for the message.

        Raises:
            ConfigurationInvalid: They are malformed, or no key is among them.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        retired = tuple(line.removeprefix(_RETIRED).strip() for line in lines if line.startswith(_RETIRED))
        private = tuple(line for line in lines if not line.startswith(_RETIRED))
        if not all(_KEY.fullmatch(each) for each in (*private, *retired)) or len({*private}) != len(private):
            raise ConfigurationInvalid(
                f"{where} is no list of log keys: 64 hex digits a line, or retired and 64 hex digits"
            )
        if not 1 <= len(private) <= SIGNERS_MAX:
            raise ConfigurationInvalid(f"{where} has {len(private)} keys that sign; 1 to {SIGNERS_MAX} may")
        both = {public_of(each) for each in private} & {*retired}
        if both:
            raise ConfigurationInvalid(f"{where} has a key that signs and is retired: {', '.join(sorted(both))}")
        return cls(private, retired)

    def keys(self) -> LogKeys:
        """Returns the keys themselves."""
        signers = (LocalSigner(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(each))) for each in self.private)
        return LogKeys(tuple(signers), frozenset(bytes.fromhex(each) for each in self.retired))


class FileKeys:
    """Keys in a file, which is read again when it has changed, so that a rotation needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: LogKeys | None = None

    def read(self) -> LogKeys:
        """See `KeySource`."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigurationInvalid(f"cannot read {self._path}: {error.strerror}") from None
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._keys is None or seen != self._seen:
            self._keys = KeyLines.parse(read_secret_file(self._path), str(self._path)).keys()
            self._seen = seen
        return self._keys


class TextKeys:
    """Keys from the environment: they stay as they were at the process's start."""

    def __init__(self, text: str) -> None:
        self._keys = KeyLines.parse(text, _SETTING).keys()

    def read(self) -> LogKeys:
        """See `KeySource`."""
        return self._keys


def key_source(text: str, environ: Mapping[str, str] = os.environ) -> KeySource:
    """Returns where the keys come from: the file that is named, else the text.

    Args:
        text: The setting's value, however it came here.
        environ: The environment, to see whether a file was named.
    """
    path = environ.get(_SETTING + FILE_SUFFIX)
    source: KeySource = FileKeys(Path(path)) if path else TextKeys(text)
    source.read()  # what is wrong is said at the start
    return source


def new_key() -> str:
    """Returns a new private key, 64 hex digits."""
    return Ed25519PrivateKey.generate().private_bytes_raw().hex()


def public_of(private: str) -> str:
    """Returns the public key that goes with a private one, both as hex digits."""
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw().hex()
