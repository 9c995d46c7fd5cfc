"""What a worker sends back of its part of a file: plain bytes, which cost far less to send than objects do."""

from __future__ import annotations

import marshal
from dataclasses import replace
from typing import NamedTuple

import orjson

from holdfast_verdict.verify.chunks import Chunk, Context, LineChecker, Proved
from holdfast_verdict.verify.records import Approved, Decided, Leg
from holdfast_verdict.verify.written import Named


class Packed(NamedTuple):
    """A chunk on its way from a worker to the process that started it; nobody else can write to that pipe.

    Attributes:
        rest: The chunk without what is packed.
        decided: Its records, as plain tuples.
        proofs: Its proofs, likewise.
        others: Its other lines, as JSON.
    """

    rest: Chunk
    decided: bytes
    proofs: bytes
    others: bytes

    @classmethod
    def of(cls, chunk: Chunk) -> Packed:
        """Packs a chunk."""
        decided = [
            (
                *one[:_APPROVALS],
                [tuple(each) for each in one.approvals],
                [(cap_id, tuple(named), *amounts) for cap_id, named, *amounts in one.legs],
                *one[_FACTS:],
            )
            for one in chunk.decided
        ]
        proofs = [tuple(proof) for proof in chunk.proofs]
        rest = replace(chunk, decided=[], proofs=[], others=[])
        return cls(rest, marshal.dumps(decided), marshal.dumps(proofs), orjson.dumps(chunk.others))

    def chunk(self) -> Chunk:
        """Unpacks it."""
        make = Decided._make
        decided = [
            make(
                (
                    *one[:_APPROVALS],
                    tuple(map(Approved._make, one[_APPROVALS])),
                    tuple(Leg(cap_id, Named._make(named), *amounts) for cap_id, named, *amounts in one[_LEGS]),
                    *one[_FACTS:],
                )
            )
            for one in marshal.loads(self.decided)  # noqa: S302 (of our own worker)
        ]
        proofs = list(map(Proved._make, marshal.loads(self.proofs)))  # noqa: S302 (as above)
        others = list(map(tuple, orjson.loads(self.others)))
        return replace(self.rest, decided=decided, proofs=proofs, others=others)


class Packer:
    """Checks lines in a process of its own.

    Args:
        context: What has to be known before.
    """

    def __init__(self, context: Context) -> None:
        self._checker = LineChecker(context)

    def look(self, block: bytes, _: object) -> Packed:
        """Checks whole lines."""
        return Packed.of(self._checker.check(block))


_APPROVALS = Decided._fields.index("approvals")
_LEGS = Decided._fields.index("legs")
_FACTS = Decided._fields.index("facts")
assert (_APPROVALS + 1, _LEGS + 1) == (_LEGS, _FACTS)
