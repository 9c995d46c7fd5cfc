"""Signed notes (C2SP signed-note): a text, an empty line, and a line for each signature.

Of the algorithms two are known: Ed25519 over the text, which logs sign with, and the timestamped cosignature of Ed25519
(C2SP tlog-cosignature), which witnesses sign with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from holdfast_verdict.log.invalid import NoteInvalid

ED25519: Final = 0x01
"""Signature algorithm: Ed25519 over the note's text."""
COSIGNATURE: Final = 0x04
"""Signature algorithm: time and Ed25519 over time and text."""

_MARK = "— "
_NOTE_BYTES_MAX = 1_000_000
_SIGNATURES_MAX = 100
_KEY_BYTES = 32
_SIGNATURE_BYTES = {ED25519: 64, COSIGNATURE: 72}
_SIGNER = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name, as it is published.

    Attributes:
        name: Whose it is: the log's origin, or the witness's name.
        algorithm: `ED25519` or `COSIGNATURE`.
        public_key: 32 bytes.
    """

    name: str
    algorithm: int
    public_key: bytes

    def __post_init__(self) -> None:
        """Refuses what could not be written."""
        require_key_name(self.name)
        if self.algorithm not in _SIGNATURE_BYTES or len(self.public_key) != _KEY_BYTES:
            raise NoteInvalid("the key is of an algorithm that is not known, or has not its length")

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key on a signature's line."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def text(self) -> str:
        """The key as text, a "vkey": `name+id+key`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._typed).decode()}"

    @property
    def _typed(self) -> bytes:
        return bytes([self.algorithm]) + self.public_key

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Reads a key from its text.

        Raises:
            NoteInvalid: It is malformed, or its id is another's.
        """
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        typed = _decode(encoded)
        if not typed:
            raise NoteInvalid("the key is malformed: a key is written name+id+key")
        key = cls(name, typed[0], typed[1:])
        if key.text != text or key.key_id.hex() != key_id:
            raise NoteInvalid("the key is malformed: its id is not the one of this name and key")
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature's line: who signed, the key's id, and what its algorithm makes of it."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line as it stands in a note."""
        return f"{_MARK}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    @property
    def time_s(self) -> int:
        """Of a cosignature: seconds of the epoch."""
        return int.from_bytes(self.value[:8], "big")

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Reads a line.

        Raises:
            NoteInvalid: It is malformed.
        """
        name, space, encoded = line.removeprefix(_MARK).removesuffix("\n").partition(" ")
        raw = _decode(encoded)
        if not line.startswith(_MARK) or not space or len(raw) < 5:  # noqa: PLR2004 (four bytes of id, and a signature)
            raise NoteInvalid("a signature's line is malformed")
        require_key_name(name)
        return cls(name, raw[:4], raw[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    @property
    def message(self) -> str:
        """The note as it is sent."""
        return self.text + "\n" + "".join(signature.line for signature in self.signatures)

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """Returns the note with more signatures on it."""
        return Note(self.text, (*self.signatures, *more))

    @classmethod
    def parse(cls, message: str | bytes) -> Note:
        """Reads a note; no signature is verified.

        Raises:
            NoteInvalid: It is malformed.
        """
        if isinstance(message, bytes):
            try:
                message = message.decode()
            except UnicodeDecodeError:
                raise NoteInvalid("the note is not UTF-8") from None
        text, middle, lines = message.rpartition("\n\n")
        if not middle or not lines.endswith("\n") or len(message.encode()) > _NOTE_BYTES_MAX:
            raise NoteInvalid("the note is malformed: it has no signatures after an empty line, or is too long")
        if any(character < " " and character != "\n" for character in message):
            raise NoteInvalid("the note has a control character")
        found = lines.removesuffix("\n").split("\n")
        if len(found) > _SIGNATURES_MAX:
            raise NoteInvalid(f"the note has over {_SIGNATURES_MAX} signatures")
        return cls(text + "\n", tuple(Signature.parse(line) for line in found))

    def verified(self, key: VerifierKey) -> Signature:
        """Returns the signature of a key, which holds.

        Raises:
            NoteInvalid: There is none, or it does not hold.
        """
        own = [each for each in self.signatures if each.name == key.name and each.key_id == key.key_id]
        if not own:
            raise NoteInvalid(f"the note has no signature of the key {key.name}+{key.key_id.hex()}")
        for signature in own:
            _verify(self.text, signature, key)
        return own[0]


def sign(text: str, key: VerifierKey, signer: _SIGNER) -> Signature:
    """Signs a note as a log does.

    Args:
        text: The note's text; it ends with a line break.
        key: The public key that goes with the signer.
        signer: Returns the Ed25519 signature over the bytes that it is given.
    """
    _require_algorithm(key, ED25519)
    return Signature(key.name, key.key_id, signer(_require_text(text).encode()))


def cosign(text: str, key: VerifierKey, signer: _SIGNER, time_s: int) -> Signature:
    """Signs a checkpoint as a witness does: with the time.

    Args:
        text: The checkpoint's text; it ends with a line break.
        key: The public key that goes with the signer.
        signer: Returns the Ed25519 signature over the bytes that it is given.
        time_s: Seconds of the epoch.
    """
    _require_algorithm(key, COSIGNATURE)
    signed = signer(_cosigned(_require_text(text), time_s))
    return Signature(key.name, key.key_id, time_s.to_bytes(8, "big") + signed)


def require_key_name(name: str) -> None:
    """Refuses what is no name of a key.

    Raises:
        NoteInvalid: It is empty, or has a space or a plus.
    """
    if not name or "+" in name or any(character.isspace() or not character.isprintable() for character in name):
        raise NoteInvalid("the name of a key is empty or has a space or a plus")


def _verify(text: str, signature: Signature, key: VerifierKey) -> None:
    if len(signature.value) != _SIGNATURE_BYTES[key.algorithm]:
        raise NoteInvalid(f"the signature of {key.name} has not its length")
    signed = text.encode() if key.algorithm == ED25519 else _cosigned(text, signature.time_s)
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature.value[-64:], signed)
    except InvalidSignature:
        raise NoteInvalid(f"the signature of {key.name}+{key.key_id.hex()} is wrong: the text was altered") from None


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _require_text(text: str) -> str:
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise NoteInvalid("a note's text ends with a line break, and has no control character")
    return text


def _require_algorithm(key: VerifierKey, algorithm: int) -> None:
    if key.algorithm != algorithm:
        raise NoteInvalid(f"the key {key.name} is not of the algorithm that this signature is of")


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded if base64.b64encode(decoded).decode() == text else b""
