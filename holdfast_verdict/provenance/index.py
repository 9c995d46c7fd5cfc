"""Which texts hold a phrase, number, date or code, without reading the texts again: words and keys, made once for each text.

Texts are cut into blocks of some thousand words that overlap by the length of the longest phrase. A phrase is looked for only in the
blocks that have its rarest word, so that a look-up costs what the phrase is worth and not what all texts are long.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_verdict.provenance.dates import moments_in
from holdfast_verdict.provenance.numbers import numbers_in, spelled
from holdfast_verdict.provenance.words import BREAK, fold, is_whole, words_of

LONGEST_PHRASE: Final = 64
"""Words of the longest phrase that is looked up as one."""
_BLOCK: Final = 1024
_OCCURRENCES: Final = 64
_SHORTEST_PART: Final = 4
_SHORTEST_CODE: Final = 6
LONGEST_CODE: Final = 128


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose text it is: a source, and the labels of the part of it; how the text was decoded, if it was."""

    source: str
    labels: frozenset[str]
    how: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Block:
    owner: int
    text: str
    squeezed: str
    places: array[int]
    starts: array[int]


@dataclass(slots=True)
class Effort:
    """How many characters a look-up may still read, so that none takes long; past it, nothing is found and `spent` is true."""

    left: int
    spent: bool = False

    def take(self, characters: int) -> bool:
        """Says whether so many may be read, and counts them."""
        self.left -= characters
        if self.left < 0:
            self.spent = True
        return not self.spent


@dataclass(slots=True)
class Found:
    """Owners of what was found: `whole` as it stands there, `loose` as a part of a word or with other punctuation."""

    whole: set[int] = field(default_factory=set)
    loose: set[int] = field(default_factory=set)

    @property
    def any(self) -> set[int]:
        """All of them."""
        return self.whole | self.loose


class Index:
    """Texts with their owners."""

    __slots__ = ("_blocks", "_keys", "_owners", "_postings", "_strict")

    def __init__(self, *, strict: bool) -> None:
        """Makes an empty index; `strict`: digits inside of names, paths and addresses are no numbers."""
        self._strict = strict
        self._owners: list[Owner] = []
        self._blocks: list[_Block] = []
        self._postings: dict[str, list[int]] = {}
        self._keys: dict[str, list[tuple[int, bool]]] = {}

    def owner(self, number: int) -> Owner:
        """Returns the owner of that number."""
        return self._owners[number]

    def add(self, owner: Owner, texts: Iterable[str]) -> None:
        """Takes texts of one owner."""
        number = len(self._owners)
        self._owners.append(owner)
        words: list[str] = []
        gaps: list[str] = []
        for text in texts:
            folded = fold(text)
            parted = words_of(folded)
            self._add_keys(number, folded, parted.words)
            if not parted.words:
                continue
            gaps.append(f"{BREAK} {parted.gaps[0]}" if not words else f"{gaps.pop()} {BREAK} {parted.gaps[0]}")
            gaps.extend(parted.gaps[1:])
            words.extend(parted.words)
        for start in range(0, len(words), _BLOCK):
            self._add_block(number, words, gaps, start)

    def _add_keys(self, number: int, folded: str, words: Sequence[str]) -> None:
        moments, written = moments_in(folded), spelled(words)
        numbers = numbers_in(folded, strict=self._strict, but=moments.spans)
        sure = moments.sure | {f"n:{each}" for each in numbers.sure | written.sure}
        maybe = (moments.maybe | {f"n:{each}" for each in numbers.maybe | written.maybe}) - sure
        for keys, is_sure in ((sure, True), (maybe, False)):
            for key in keys:
                self._keys.setdefault(key, []).append((number, is_sure))

    def _add_block(self, number: int, words: list[str], gaps: list[str], start: int) -> None:
        end = min(len(words), start + _BLOCK + LONGEST_PHRASE)
        parts = [words[start - 1] if start else ""]
        at, squeezed_at = len(parts[0]), 0
        places, starts = array("L"), array("L")
        block = len(self._blocks)
        for index in range(start, end):
            gap, word = gaps[index], words[index]
            at += len(gap)
            places.append(at)
            starts.append(squeezed_at)
            at += len(word)
            squeezed_at += len(word)
            parts.append(gap)
            parts.append(word)
            holders = self._postings.get(word)
            if holders is None:
                self._postings[word] = [block]
            elif holders[-1] != block:
                holders.append(block)
        parts.append(gaps[end])
        parts.append(words[end] if end < len(words) else "")
        self._blocks.append(_Block(number, "".join(parts), "".join(words[start:end]), places, starts))

    def has(self, word: str) -> bool:
        """Says whether any text has the word."""
        return word in self._postings

    def holders(self, words: Iterable[str]) -> set[int]:
        """Returns whose texts have all of the words, wherever they stand."""
        found: set[int] | None = None
        for word in words:
            owners = {self._blocks[number].owner for number in self._postings.get(word, ())}
            found = owners if found is None else found & owners
            if not found:
                return set()
        return found or set()

    def keyed(self, key: str) -> Found:
        """Returns whose texts have a number (`n:12.5`), date (`d:2024-05-15`) or time (`t:14:30`): whole if there is one reading."""
        found = Found()
        for number, is_sure in self._keys.get(key, ()):
            (found.whole if is_sure else found.loose).add(number)
        return found

    def phrase(self, words: Sequence[str], text: str, effort: Effort, *, parts: bool) -> Found:
        """Returns whose texts have a phrase.

        Args:
            words: Its words, at most `LONGEST_PHRASE`.
            text: Its normal form.
            effort: What the search may cost.
            parts: Whether also as a part of longer words and names; otherwise the first owner of a whole one is enough.
        """
        found = Found()
        middle = words[1:-1]
        inner = middle if parts and middle and not all(map(self.has, (words[0], words[-1]))) else words
        for block in self._holding(inner):
            if block.owner in found.whole:
                continue
            if not effort.take(len(block.text)):
                break
            at, tries = block.text.find(text), 0
            while at >= 0 and tries < _OCCURRENCES:
                if is_whole(block.text, at, at + len(text)):
                    found.whole.add(block.owner)
                    if not parts:
                        return found
                    break
                if parts and len(text) >= _SHORTEST_PART:
                    found.loose.add(block.owner)
                at, tries = block.text.find(text, at + 1), tries + 1
            if tries == _OCCURRENCES and parts:
                found.loose.add(block.owner)
        return found

    def free(self, words: Sequence[str], text: str, effort: Effort) -> bool:
        """Says whether a phrase stands somewhere as a name of its own, and not only as a piece of a longer one.

        `ann` of `ann@acme.com` is one: who takes it from there, and joins it to another host, makes another name.
        """
        for block in self._holding(words):
            if not effort.take(len(block.text)):
                return False
            at, tries = block.text.find(text), 0
            while at >= 0 and tries < _OCCURRENCES:
                end = at + len(text)
                if _is_gap(block.text[max(0, at - 1) : at]) and _is_gap(block.text[end : end + 1]):
                    return True
                at, tries = block.text.find(text, at + 1), tries + 1
        return False

    def code(self, squeezed: str, effort: Effort) -> list[tuple[int, str]]:
        """Returns whose texts have those letters and digits from the start of a word to the end of one, and as they stand there."""
        found: list[tuple[int, str]] = []
        if not _SHORTEST_CODE <= len(squeezed) <= LONGEST_CODE:
            return found
        seen: set[int] = set()
        for length in range(1, len(squeezed) + 1):
            for number in self._postings.get(squeezed[:length], ()):
                if number in seen:
                    continue
                seen.add(number)
                block = self._blocks[number]
                if not effort.take(len(block.squeezed)):
                    return found
                found.extend((block.owner, shown) for shown in _codes(block, squeezed))
        return found

    def _holding(self, words: Sequence[str]) -> list[_Block]:
        lists: list[list[int]] = []
        for word in dict.fromkeys(words):
            holders = self._postings.get(word)
            if holders is None:
                return []
            lists.append(holders)
        if not lists:
            return []
        lists.sort(key=len)
        numbers = lists[0]
        for other in lists[1:3]:
            if len(numbers) > 1:
                held = set(other)
                numbers = [number for number in numbers if number in held]
        return [self._blocks[number] for number in numbers]


def _is_gap(beside: str) -> bool:
    return beside in ("", " ", BREAK)


def _codes(block: _Block, squeezed: str) -> Iterable[str]:
    at, tries = block.squeezed.find(squeezed), 0
    while at >= 0 and tries < _OCCURRENCES:
        first, after = bisect_left(block.starts, at), bisect_left(block.starts, at + len(squeezed))
        ends = at + len(squeezed) == len(block.squeezed) or (
            after < len(block.starts) and block.starts[after] == at + len(squeezed)
        )
        if first < len(block.starts) and block.starts[first] == at and ends:
            stop = block.places[after - 1] + _width(block, after - 1)
            shown = block.text[block.places[first] : stop]
            if BREAK not in shown and is_whole(block.text, block.places[first], stop):
                yield shown
        at, tries = block.squeezed.find(squeezed, at + 1), tries + 1


def _width(block: _Block, index: int) -> int:
    end = block.starts[index + 1] if index + 1 < len(block.starts) else len(block.squeezed)
    return end - block.starts[index]
