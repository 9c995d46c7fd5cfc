"""A log of a test's own: it numbers the records of a bundle, signs, and writes the bundle as a server does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.log.checkpoint import Checkpoint
from holdfast_verdict.log.note import ED25519, Note, VerifierKey, sign
from holdfast_verdict.log.tree import (
    consistency_ranges,
    inclusion_ranges,
    root_of,
)
from holdfast_verdict.record import part_b, record_hash, record_hash_of
from holdfast_verdict.verify.lines import RECORDS, Line
from holdfast_verdict.verify.seal import CODE, KIND
from holdfast_verdict.verify.writing import Consistency, Proof, Writer

EXPORT_ID = UUID("01900000-0000-7000-8000-00000000e4b0")


@dataclass(slots=True)
class TestLog:
    """A log with a key of its own.

    Attributes:
        origin: Its name.
        seed: What its key is made from.
        before: Hashes of records that no bundle has, but the log.
    """

    __test__ = False

    origin: str
    seed: bytes = b"a log of a test's own"
    before: list[bytes] = field(default_factory=lambda: [hashlib.sha256(bytes([n])).digest() for n in range(3)])

    @property
    def private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.seed).digest())

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.origin, ED25519, self.private_key.public_key().public_bytes_raw())

    def note(self, leaves: Sequence[bytes]) -> str:
        text = Checkpoint(self.origin, len(leaves), root_of(leaves)).text
        return Note(text, (sign(text, self.key, self.private_key.sign),)).message

    def bundle(
        self, content: Iterable[Line], since: Sequence[int] = (), logged: Mapping[str, bytes] | None = None
    ) -> bytes:
        """Seals content: its records are the next of the log, then the export's, then one more.

        Args:
            content: Lines from the header to the journal.
            since: Sizes of earlier trees that the bundle proves to go on from.
            logged: By decision, hashes that are in the log in place of those of the records.
        """
        writer = Writer()
        out, leaves, ids = [], list(self.before), []
        for line in content:
            out.append(writer.content(line))
            if line["type"] in RECORDS:
                ids.append(str(line["decision_id"]))
                leaves.append((logged or {}).get(ids[-1]) or hash_of(line))
        a = canonical_bytes({"v": 1, "kind": KIND, "facts": writer.facts({"user": "auditor"})})
        b = part_b(
            decision_id=EXPORT_ID,
            time_ms=1_800_000_000_000,
            verdict="allow",
            reason_codes=(CODE,),
            hold_id=None,
            legs=[],
        )
        out += writer.seal(str(EXPORT_ID), a, b)
        ids.append(str(EXPORT_ID))
        leaves.append(record_hash(a, b))
        first = len(self.before)
        after = [*leaves, hashlib.sha256(b"after").digest()]
        out += [
            writer.proof(Proof(name, after[first + n], first + n, path(after, inclusion_ranges(first + n, len(after)))))
            for n, name in enumerate(ids)
        ]
        proofs = [Consistency(n, root_of(after[:n]), path(after, consistency_ranges(n, len(after)))) for n in since]
        out += writer.end(proofs, [self.key.text], self.note(after))
        return b"".join(out)


def hash_of(record: Line) -> bytes:
    b = str(record["part_b"]).encode()
    if record["type"] == "deleted":
        return record_hash_of(bytes.fromhex(str(record["part_a_sha256"])), b)
    return record_hash(str(record["part_a"]).encode(), b)


def path(leaves: Sequence[bytes], ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    return [root_of(leaves[begin:end]) for begin, end in ranges]


def content_of(bundle: bytes) -> list[Line]:
    """Returns the lines before the seal."""
    lines = [orjson.loads(raw) for raw in bundle.splitlines()]
    return lines[: next(place for place, line in enumerate(lines) if line["type"] == "seal")]
