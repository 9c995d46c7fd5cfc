"""Writing a bundle, line by line: its content, and what seals and proves it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.verify.lines import Line, write
from holdfast_verdict.verify.seal import content_hash

_HASH: Final = 32
_LISTED: Final = 512
"""Digests in one line of type `lines`."""


class Proof(NamedTuple):
    """A record's place in the log.

    Attributes:
        decision_id: The record's id.
        record_hash: Its hash.
        leaf_index: Its number in the log.
        path: The proof of inclusion at the checkpoint's size.
    """

    decision_id: str
    record_hash: bytes
    leaf_index: int
    path: Sequence[bytes]


class Consistency(NamedTuple):
    """A proof that the log goes on from an earlier checkpoint."""

    from_size: int
    from_root: bytes
    path: Sequence[bytes]


class Writer:
    """Writes one bundle; the lines come back as bytes, each with its line break."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._lines = 0
        self._header: Line = {}

    def content(self, line: Line) -> bytes:
        """Writes a line that the seal is over; the header is the first."""
        raw = write(line)
        self._header = self._header or line
        self._digests += hashlib.sha256(raw).digest()
        return self._raw(raw)

    def facts(self, subject: JsonValue) -> dict[str, JsonValue]:
        """Returns what the record of the export has to hold, once all content is written.

        Args:
            subject: Who exports.
        """
        named = {name: self._header[name] for name in ("tenant_id", "scope", "read_at_ms")}
        count = len(self._digests) // _HASH
        return {"subject": subject, **named, "content_sha256": content_hash(self._digests), "lines": count}

    def seal(self, decision_id: str, part_a: bytes, part_b: bytes) -> Iterator[bytes]:
        """Writes the record of the export, and the list of the lines before it."""
        yield self._line(
            {"type": "seal", "decision_id": decision_id, "part_a": part_a.decode(), "part_b": part_b.decode()}
        )
        step = _LISTED * _HASH
        for place in range(0, len(self._digests), step):
            digests = base64.b64encode(self._digests[place : place + step]).decode()
            yield self._line({"type": "lines", "first": place // _HASH + 1, "sha256": digests})

    def proof(self, proof: Proof) -> bytes:
        """Writes a record's proof."""
        return self._line(
            {
                "type": "proof",
                "decision_id": proof.decision_id,
                "record_hash": proof.record_hash.hex(),
                "leaf_index": proof.leaf_index,
                "path": _joined(proof.path),
            }
        )

    def end(self, consistency: Iterable[Consistency], vkeys: Iterable[str], note: str) -> Iterator[bytes]:
        """Writes what the proofs lead to, and the last line."""
        for each in consistency:
            yield self._line(
                {
                    "type": "consistency",
                    "from_size": each.from_size,
                    "from_root": each.from_root.hex(),
                    "path": _joined(each.path),
                }
            )
        for vkey in vkeys:
            yield self._line({"type": "key", "vkey": vkey})
        yield self._line({"type": "checkpoint", "note": note})
        yield self._line({"type": "end", "lines": self._lines + 1})

    def _line(self, line: Line) -> bytes:
        return self._raw(write(line))

    def _raw(self, raw: bytes) -> bytes:
        self._lines += 1
        return raw + b"\n"


def _joined(hashes: Sequence[bytes]) -> str:
    return base64.b64encode(b"".join(hashes)).decode()
