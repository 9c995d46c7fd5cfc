"""Tiles as C2SP's tlog-tiles lays a log out: hashes by 256 a tile and eight levels a row of tiles, and bundles of entries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_verdict.log.invalid import LogInvalid
from holdfast_verdict.log.tree import HASH_BYTES, Node, Range, fold, node_hash, nodes_of, proof_of, range_nodes

HEIGHT: Final = 8
"""Levels of the tree in one row of tiles."""
WIDTH: Final = 1 << HEIGHT
"""Hashes in a full tile, entries in a full bundle."""
ENTRIES: Final = -1
"""The level of a bundle of entries, whose leaves' hashes are in the tile of level 0 with the same index."""
LEVEL_MAX: Final = 63

_ENTRY_BYTES_MAX = 0xFFFF
_PATH = re.compile(
    r"tile/(?:(?P<level>0|[1-9][0-9]?)|entries)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One tile, or one bundle of entries, as far as it is filled at some size of the tree.

    Attributes:
        level: Row of tiles: its hashes are those of the tree's level `8 * level`; `ENTRIES` for a bundle.
        index: Number within the row.
        width: How many hashes or entries it has.
    """

    level: int
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Its path below the log's prefix."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        digits = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            digits = f"x{rest % 1000:03d}/{digits}"
            rest //= 1000
        return f"tile/{level}/{digits}{'' if self.width == WIDTH else f'.p/{self.width}'}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Reads a path.

        Raises:
            LogInvalid: It is not one, or is not written the one way it may be.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise LogInvalid("this is no path of a tile")
        level = ENTRIES if match["level"] is None else int(match["level"])
        tile = cls(level, int(match["index"].replace("x", "").replace("/", "")), int(match["width"] or WIDTH))
        if level > LEVEL_MAX or tile.path != path:
            raise LogInvalid("this is no path of a tile")
        return tile


def width_at(level: int, index: int, size: int) -> int:
    """Returns how many hashes a tile has at a size of the tree; 0 if there is no such tile then."""
    return max(0, min(WIDTH, (size >> (HEIGHT * max(level, 0))) - index * WIDTH))


def tiles_between(old_size: int, size: int) -> Iterator[Tile]:
    """Yields the tiles and bundles that a tree has at a size and had not, or not as wide, at an older one."""
    for level in (ENTRIES, *range(size.bit_length() // HEIGHT + 1)):
        old_count, count = old_size >> (HEIGHT * max(level, 0)), size >> (HEIGHT * max(level, 0))
        if count > old_count:
            for index in range(old_count // WIDTH, (count - 1) // WIDTH + 1):
                yield Tile(level, index, width_at(level, index, size))


def edge(size: int) -> list[Tile]:
    """Returns the tiles of hashes that are filled in part: an append begins from them, and they make up the root."""
    counts = ((level, size >> (HEIGHT * level)) for level in range(size.bit_length() // HEIGHT + 1))
    return [Tile(level, count // WIDTH, count % WIDTH) for level, count in counts if count % WIDTH]


def append(
    tiles: Mapping[tuple[int, int], bytes], size: int, leaf_hashes: Sequence[bytes]
) -> dict[tuple[int, int], bytes]:
    """Appends leaves: O(n + log size) hashes.

    Args:
        tiles: Bytes of at least the tiles of `edge(size)`, by level and index.
        size: The tree's size before.
        leaf_hashes: What is appended.

    Returns:
        Bytes of each tile that is new or has grown, by level and index. They begin with what the tile was before.
    """
    changed: dict[tuple[int, int], bytes] = {}
    level, added = 0, list(leaf_hashes)
    while added:
        index, filled = divmod(size >> (HEIGHT * level), WIDTH)
        upwards = []
        hashes = _hashes_of(tiles[level, index]) if filled else []
        if len(hashes) != filled:
            raise LogInvalid(
                f"tile {Tile(level, index, filled).path} has {len(hashes)} hashes and should have {filled}"
            )
        for start in range(0, filled + len(added), WIDTH):
            hashes += added[max(0, start - filled) : start - filled + WIDTH]
            changed[level, index] = b"".join(hashes)
            if len(hashes) == WIDTH:
                upwards.append(_complete(hashes))
                index += 1
                hashes = []
        level, added = level + 1, upwards
    return changed


def root(tiles: Mapping[tuple[int, int], bytes], size: int) -> bytes:
    """Returns the root of a tree, given the tiles of `edge(size)`; they may have grown since."""
    return fold([node_in(tiles[key_of(node)], node) for node in range_nodes(0, size)])


def key_of(node: Node) -> tuple[int, int]:
    """Returns level and index of the tile that a subtree's hash can be read from."""
    level, within = divmod(node.level, HEIGHT)
    return level, (node.index << within) // WIDTH


def node_in(hashes: bytes, node: Node) -> bytes:
    """Returns the hash of a subtree from the bytes of its tile.

    Raises:
        LogInvalid: The tile does not have all of it.
    """
    within = node.level % HEIGHT
    first = (node.index << within) % WIDTH
    part = _hashes_of(hashes[first * HASH_BYTES : (first + (1 << within)) * HASH_BYTES])
    if len(part) != 1 << within:
        raise LogInvalid(f"a tile is shorter than the subtree {node.index} of level {node.level} needs")
    return _complete(part)


def entry_bundle(entries: Sequence[bytes]) -> bytes:
    """Returns a bundle of entries: each with its length before it, 16 bits, the higher byte first."""
    if any(len(entry) > _ENTRY_BYTES_MAX for entry in entries):
        raise LogInvalid(f"an entry is over {_ENTRY_BYTES_MAX} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def entries_of(bundle: bytes) -> list[bytes]:
    """Reads a bundle of entries.

    Raises:
        LogInvalid: It ends in the middle of one.
    """
    entries, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entry = bundle[at + 2 : at + 2 + length]
        if at + 2 > len(bundle) or len(entry) != length:
            raise LogInvalid("a bundle ends in the middle of an entry")
        entries.append(entry)
        at += 2 + length
    return entries


def keys_of(ranges: Iterable[Range]) -> list[tuple[int, int]]:
    """Returns level and index of each tile that the proof of these ranges is made from."""
    return sorted({key_of(node) for node in nodes_of(ranges)})


def prove(ranges: Sequence[Range], tiles: Mapping[tuple[int, int], bytes]) -> list[bytes]:
    """Returns the proof of these ranges, given the tiles of `keys_of` them."""
    return proof_of(ranges, {node: node_in(tiles[key_of(node)], node) for node in nodes_of(ranges)})


def _hashes_of(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def _complete(hashes: Sequence[bytes]) -> bytes:
    """Returns the root over a power of two of hashes."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
