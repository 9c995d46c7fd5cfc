"""Checkpoints (C2SP tlog-checkpoint): a log's name, its size and its root, as the text of a signed note."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast_verdict.log.invalid import NoteInvalid
from holdfast_verdict.log.note import Note, Signature, VerifierKey
from holdfast_verdict.log.tree import HASH_BYTES

_LINES_MIN: Final = 3
_SIZE_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits itself to.

    Attributes:
        origin: The log's name.
        size: How many records it has.
        root: Root of the tree over them.
        extensions: Lines behind those three, which we write none of.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The checkpoint as text, which is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads a checkpoint's text; what is not written the one way it may be is refused.

        Raises:
            NoteInvalid: It is malformed.
        """
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < _LINES_MIN or not all(lines):
            raise NoteInvalid("a checkpoint has at least three lines, and none is empty")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except (binascii.Error, ValueError):
            root = b""
        if not (lines[1].isascii() and lines[1].isdecimal()) or len(root) != HASH_BYTES:
            raise NoteInvalid("a checkpoint's second line is a number, and its third a hash")
        found = cls(lines[0], int(lines[1]), root, tuple(lines[3:]))
        if found.text != text or found.size > _SIZE_MAX:
            raise NoteInvalid("the checkpoint is malformed")
        return found


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint whose note a key of its log has signed.

    Attributes:
        checkpoint: What it says.
        note: The note, with all its signatures.
        key: The log's key whose signature was verified.
    """

    checkpoint: Checkpoint
    note: Note
    key: VerifierKey

    @classmethod
    def open(cls, message: str | bytes, keys: Iterable[VerifierKey]) -> SignedCheckpoint:
        """Reads a signed checkpoint and verifies it with one of the log's keys.

        Args:
            message: The note.
            keys: Keys that the log is known by. Their name is its origin.

        Raises:
            NoteInvalid: It is malformed, of another log, or signed by none of the keys.
        """
        note = Note.parse(message)
        checkpoint = Checkpoint.parse(note.text)
        ids = {(each.name, each.key_id) for each in note.signatures}
        known = tuple(keys)
        for key in known:
            if key.name == checkpoint.origin and (key.name, key.key_id) in ids:
                note.verified(key)
                return cls(checkpoint, note, key)
        names = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in known) or "no key"
        raise NoteInvalid(f"the checkpoint of {checkpoint.origin} is signed by none of the known keys ({names})")

    def cosigned_by(self, witnesses: Iterable[VerifierKey]) -> list[tuple[VerifierKey, Signature]]:
        """Returns those of the witnesses whose cosignature is on the note; one that is there has to hold.

        Raises:
            NoteInvalid: A witness's signature is wrong.
        """
        ids = {(each.name, each.key_id) for each in self.note.signatures}
        found = [witness for witness in witnesses if (witness.name, witness.key_id) in ids]
        return [(witness, self.note.verified(witness)) for witness in found]
