"""Reading a bundle's file in parts: its head, its tail, where a section begins, and blocks of whole lines."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Final

from holdfast_verdict.verify import lines
from holdfast_verdict.verify.findings import DoesNotHold
from holdfast_verdict.verify.lines import FORMAT, PLACE, VERSION, Line

BLOCK_BYTES: Final = 4_000_000
_TAIL: Final = frozenset({"consistency", "key", "checkpoint", "end"})
_TAIL_LINES_MAX: Final = 1_000
_LINE_BYTES_MAX: Final = 64_000_000

Block = tuple[int, int]
"""Where a block begins, and where it ends."""


class Source:
    """A bundle's file.

    Attributes:
        data: Its bytes.
        size: How many.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)

    def lines_from(self, start: int) -> Iterator[bytes]:
        """Yields lines without their line breaks; what does not end with one is left out."""
        while start < self.size:
            end = self.data.find(b"\n", start, start + _LINE_BYTES_MAX)
            if end < 0:
                return
            yield self.data[start:end]
            start = end + 1

    def head(self) -> tuple[dict[str, Any], tuple[Line, ...]]:  # Any: as in Report
        """Reads the header and the policies.

        Raises:
            DoesNotHold: The file does not begin as a bundle.
        """
        found = self.lines_from(0)
        header: dict[str, Any] = lines.parse(next(found, b""))
        if header["type"] != "header" or header["format"] != FORMAT:
            raise DoesNotHold("audit.bundle", "it does not begin with the header of an audit bundle")
        if header["v"] != VERSION:
            raise DoesNotHold("audit.bundle", f"it is a bundle of version {header['v']}, and {VERSION} is known here")
        policies = []
        for raw in found:
            try:
                line = lines.parse(raw)
            except DoesNotHold:
                continue  # said when the lines are checked
            if line["type"] != "policy":
                break
            policies.append(line)
        return header, tuple(policies)

    def tail(self) -> list[Line]:
        """Returns the lines behind the proofs, as far as they can be read; what is wrong with them is said with all lines."""
        tail = []
        end = self.size
        for _ in range(_TAIL_LINES_MAX):
            start = self.data.rfind(b"\n", 0, max(end - 1, 0)) + 1
            try:
                line = lines.parse(self.data[start:end].removesuffix(b"\n"))
            except DoesNotHold:
                line = None
            if line is not None:
                if line["type"] not in _TAIL:
                    break
                tail.append(line)
            if not start:
                break
            end = start
        return tail[::-1]

    def section(self, name: str) -> int:
        """Returns where lines of a type begin, or would stand, if the lines stand in their order.

        Raises:
            DoesNotHold: A line on the way there is none of a bundle.
        """
        wanted, low, high = PLACE[name], 0, self.size  # before `low` lines come earlier, from `high` on they do not
        while low < high:
            start = self.data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = self.data.find(b"\n", start) + 1 or self.size
            kind = str(lines.parse(self.data[start:end].removesuffix(b"\n"))["type"])
            if PLACE[kind] < wanted:
                low = end
            else:
                high = start
        return low

    def blocks(self, start: int, end: int) -> Iterator[Block]:
        """Splits a part of the file, which begins and ends with whole lines, into blocks of whole lines."""
        while start < end:
            stop = self.data.find(b"\n", min(start + BLOCK_BYTES, end - 1), end) + 1 or end
            yield start, stop
            start = stop
