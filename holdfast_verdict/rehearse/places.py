"""Where the lines of a bundle stand that a rehearsal reads, found without reading them; and which process reads which of them."""

from __future__ import annotations

import heapq
import mmap
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

_TYPE: Final = b'"type":"'
_TYPE_BYTES: Final = 80
"""In these last bytes of a line stands its type: members are sorted, and few come behind it."""
_RUN: Final = b'"run_id":"'
_RECORDS: Final = frozenset({b"record", b"sealed", b"deleted"})
_HEADS: Final = frozenset({b"header", b"policy"})
_HOLD: Final = b"hold"
_GROUPS: Final = 1_024
"""Runs are put into so many groups, and a group stays together; so what is known of a file does not grow with its runs."""

Share = tuple[int, int]
"""A part of a file: its first byte, and the one behind its last."""


class BundleUnreadable(ValueError):
    """A file is no bundle, or its records cannot be read."""


@contextmanager
def opened(path: Path) -> Iterator[mmap.mmap]:
    """Opens a bundle.

    Raises:
        OSError: The file cannot be read.
        BundleUnreadable: It is empty, or what is done with it finds something that is not of its form.
    """
    with path.open("rb") as file:
        try:
            source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BundleUnreadable("the file is empty") from None
        with source:
            try:
                yield source
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if isinstance(error, BundleUnreadable):
                    raise
                raise BundleUnreadable(f"something in it is not of its form ({type(error).__name__})") from None


def _offsets() -> array[int]:
    return array("Q")


@dataclass(slots=True)
class Places:
    """Where lines begin in a share of a bundle, in their order.

    Attributes:
        heads: The header, and policies.
        records: Records, by group of runs.
        holds: Holds, by group of runs.
    """

    heads: array[int] = field(default_factory=_offsets)
    records: defaultdict[int, array[int]] = field(default_factory=lambda: defaultdict(_offsets))
    holds: defaultdict[int, array[int]] = field(default_factory=lambda: defaultdict(_offsets))


@dataclass(frozen=True, slots=True)
class Lane:
    """Where the lines begin that one process reads, in their order: the heads, and the records and holds of its runs."""

    heads: Sequence[int]
    records: Sequence[int]
    holds: Sequence[int]


def line_at(source: mmap.mmap, place: int) -> bytes:
    """Returns the line that begins at a place."""
    source.seek(place)
    return source.readline()


def share_out(source: mmap.mmap, count: int) -> list[Share]:
    """Cuts a file into as many parts of about one size, each of whole lines; fewer, if it has not so many lines."""
    size = len(source)
    ends = [source.find(b"\n", size * number // count) + 1 or size for number in range(1, count)] + [size]
    cuts = sorted({0, *ends})
    return list(pairwise(cuts))


def places_in(source: mmap.mmap, share: Share, *, alone: bool = False) -> Places:
    """Looks a share through.

    Args:
        source: The file.
        share: Which part of it.
        alone: One process reads all of it, so that runs need not be told apart.
    """
    found = Places()
    heads, records, holds = found.heads.append, found.records, found.holds
    place, end = share
    source.seek(place)
    while place < end:
        raw = source.readline()
        tail = raw[-_TYPE_BYTES:]
        at = tail.rfind(_TYPE) + len(_TYPE)
        kind = tail[at : tail.find(b'"', at)]
        if kind in _RECORDS:
            records[0 if alone else _group_of(raw)].append(place)
        elif kind == _HOLD:
            holds[0 if alone else _group_of(raw)].append(place)
        elif kind in _HEADS:
            heads(place)
        place += len(raw)
    return found


def _group_of(raw: bytes) -> int:
    """Returns the group of the run that a line names, without reading all of it; lines that name none are together."""
    at = raw.rfind(_RUN) + len(_RUN)
    run = raw[at : raw.find(b'"', at)] if at >= len(_RUN) else b""
    return zlib.crc32(run) % _GROUPS


def lanes_of(places: Sequence[Places], count: int) -> list[Lane]:
    """Shares groups of runs out so that each lane has about as many records.

    Args:
        places: What was found in each share of the file, in their order.
        count: How many lanes at most.
    """
    sizes: dict[int, int] = {}
    for each in places:
        for group, found in each.records.items():
            sizes[group] = sizes.get(group, 0) + len(found)
    lanes: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(count)]
    for group in sorted(sizes, key=lambda group: (-sizes[group], group)):
        taken, number, own = heapq.heappop(lanes)
        own.append(group)
        heapq.heappush(lanes, (taken + sizes[group], number, own))
    heads = [place for each in places for place in each.heads]
    filled = [own for _, _, own in lanes if own] or [[]]
    return [
        Lane(
            heads, _of_groups([each.records for each in places], own), _of_groups([each.holds for each in places], own)
        )
        for own in filled
    ]


def _of_groups(found: Sequence[Mapping[int, array[int]]], groups: Sequence[int]) -> array[int]:
    """Returns where the lines of some groups begin, in their order."""
    whole = _offsets()
    for each in found:
        whole.extend(sorted(place for group in groups for place in each.get(group, ())))
    return whole
