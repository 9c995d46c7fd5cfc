"""Following proofs of inclusion to one root, many of them: what was walked before is compared and not hashed again."""

from __future__ import annotations

import hashlib

from holdfast_verdict.verify.findings import DoesNotHold

_HASH = 32
_WALKED_MAX = 4_096
"""Steps that are kept. Proofs stand in the order of the log, so that what the next one shares with any, it shares with the last."""


class Paths:
    """Proofs of inclusion in one tree (RFC 9162 section 2.1.3.2).

    Args:
        size: The tree's number of leaves.
        root: Its root.
    """

    def __init__(self, size: int, root: bytes) -> None:
        self._size = size
        self._root = root
        self._walked: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def check(self, leaf: bytes, index: int, path: bytes) -> None:
        """Sees that a leaf is at its place in the tree.

        Args:
            leaf: Its hash.
            index: Its number.
            path: The hashes of the proof, behind each other.

        Raises:
            DoesNotHold: It is not, or the path does not show it.
        """
        if index >= self._size:
            raise DoesNotHold(
                "audit.inclusion", f"it should be number {index} of a log that the checkpoint ends at {self._size}"
            )
        walked, steps = self._walked, list[tuple[tuple[int, int], tuple[bytes, bytes]]]()
        first, last, node, place = index, self._size - 1, leaf, 0
        while last:
            known = walked.get((first, last))
            if known is not None:
                if known != (node, path[place:]):
                    raise DoesNotHold("audit.inclusion", f"its path does not lead from number {index} to the root")
                self._keep(steps)
                return
            steps.append(((first, last), (node, path[place:])))
            sibling = path[place : place + _HASH]
            place += _HASH
            if len(sibling) != _HASH:
                raise DoesNotHold("audit.inclusion", f"its path is too short for number {index}")
            if first & 1 or first == last:
                node = hashlib.sha256(b"\x01" + sibling + node).digest()
                while not first & 1 and first:
                    first, last = first >> 1, last >> 1
            else:
                node = hashlib.sha256(b"\x01" + node + sibling).digest()
            first, last = first >> 1, last >> 1
        if node != self._root or place != len(path):
            raise DoesNotHold("audit.inclusion", f"its path does not lead from number {index} to the root")
        self._keep(steps)

    def _keep(self, steps: list[tuple[tuple[int, int], tuple[bytes, bytes]]]) -> None:
        if len(self._walked) > _WALKED_MAX:
            self._walked.clear()
        self._walked.update(steps)
