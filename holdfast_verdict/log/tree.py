"""Merkle trees as RFC 9162 (and RFC 6962) hashes them: roots, and proofs that a leaf or an older tree is in a tree.

Ranges of leaves are `(begin, end)`, the end excluded. A proof is made in three steps, so that whoever stores a tree reads all that
it needs at once: the ranges whose roots make up the proof, the complete subtrees (`Node`) that make up a range, and the fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_verdict.log.invalid import ProofInvalid

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: the leaves `index << level` up to `(index + 1) << level`."""

    level: int
    index: int


def leaf_hash(entry: bytes) -> bytes:
    """Returns the hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Returns the root of a range from the hashes of its `range_nodes`."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """Returns the root over leaves that are already hashed."""
    stack: list[bytes] = []
    for count, leaf in enumerate(leaf_hashes, start=1):
        current, rest = leaf, count
        while rest % 2 == 0:
            current = node_hash(stack.pop(), current)
            rest //= 2
        stack.append(current)
    return fold(stack)


def range_nodes(begin: int, end: int) -> list[Node]:
    """Returns the complete subtrees that make up a range, from left to right; `fold` makes its root of their hashes.

    Args:
        begin: First leaf; a range of a proof or of a whole tree begins where a subtree of its size may.
        end: The leaf behind the last.
    """
    nodes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        nodes.append(Node(level, begin >> level))
        begin += 1 << level
    return nodes


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Returns the ranges whose roots prove that a leaf is in a tree (RFC 9162 section 2.1.3.1).

    Raises:
        ProofInvalid: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} leaves has no leaf {index}")
    begin, end, ranges = 0, size, list[Range]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """Returns the ranges whose roots prove that an older tree is the beginning of a tree (RFC 9162 section 2.1.4.1).

    Raises:
        ProofInvalid: The older tree is the larger.
    """
    if not 0 <= old_size <= size:
        raise ProofInvalid(f"a tree of {size} leaves was never one of {old_size}")
    if old_size in (0, size):
        return []
    begin, end, ranges = 0, size, list[Range]()
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:
        ranges.append((begin, end))
    return ranges[::-1]


def nodes_of(ranges: Iterable[Range]) -> list[Node]:
    """Returns all subtrees that the ranges of a proof are made of."""
    return [node for begin, end in ranges for node in range_nodes(begin, end)]


def proof_of(ranges: Iterable[Range], hashes: Mapping[Node, bytes]) -> list[bytes]:
    """Returns the proof, given the hash of each of `nodes_of` the same ranges."""
    return [fold([hashes[node] for node in range_nodes(begin, end)]) for begin, end in ranges]


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that a leaf is in a tree (RFC 9162 section 2.1.3.2).

    Args:
        index: The leaf's number.
        size: The tree's number of leaves.
        leaf: The leaf's hash.
        proof: What the log says.
        root: The tree's root.

    Raises:
        ProofInvalid: It is not, or the proof does not show it.
    """
    _require_hashes([leaf, *proof, root])
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} leaves has no leaf {index}")
    first, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("the proof of inclusion is too long")
        if first & 1 or first == last:
            result = node_hash(sibling, result)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        first, last = first >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof of inclusion is too short")
    if result != root:
        raise ProofInvalid(f"leaf {index} is not in the tree of {size} leaves with this root")


def verify_consistency(*, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Checks that an older tree is the beginning of a tree (RFC 9162 section 2.1.4.2).

    Args:
        old_size: The older tree's number of leaves.
        old_root: Its root.
        size: The tree's number of leaves.
        root: Its root.
        proof: What the log says.

    Raises:
        ProofInvalid: It is not, or the proof does not show it.
    """
    _require_hashes([old_root, *proof, root])
    if not 0 <= old_size <= size:
        raise ProofInvalid(f"the log went back from {old_size} leaves to {size}")
    if old_size in (0, size):
        if proof:
            raise ProofInvalid("the proof of consistency is too long")
        if old_root != (root if old_size else EMPTY_ROOT):
            raise ProofInvalid(f"there are two roots of a tree of {old_size} leaves: the log was forked")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("the proof of consistency is too short")
    first, last = old_size - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old_result = result = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("the proof of consistency is too long")
        if first & 1 or first == last:
            old_result, result = node_hash(sibling, old_result), node_hash(sibling, result)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        first, last = first >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof of consistency is too short")
    if old_result != old_root or result != root:
        raise ProofInvalid(
            f"the tree of {old_size} leaves is not the beginning of the tree of {size}: the log was forked"
        )


def _split(count: int) -> int:
    """Returns the largest power of two below a count of two or more."""
    return 1 << ((count - 1).bit_length() - 1)


def _require_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ProofInvalid(f"a hash of a proof is not {HASH_BYTES} bytes long")
