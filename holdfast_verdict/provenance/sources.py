"""What a run has heard, and where a value of an action is therefore from.

A value is looked up by what it says, never by what a model claims. What is found nowhere is model text, and has the labels of all that
the run had read: a form that nobody recognises never makes a value clean.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import orjson

from holdfast_verdict.provenance.dates import parts_of, without_year
from holdfast_verdict.provenance.decodings import embedded, is_binary, readings
from holdfast_verdict.provenance.index import LONGEST_PHRASE, Effort, Index, Owner
from holdfast_verdict.provenance.leaves import (
    Path,
    TooDeep,
    constants_in,
    is_number,
    labels_at,
    leaves_of,
    shown,
    steps_of,
)
from holdfast_verdict.provenance.numbers import Numbers, currencies_in, number_of
from holdfast_verdict.provenance.origin import CONSTANT, Origin, join
from holdfast_verdict.provenance.words import Words, fold, joins, steps_upwards, words_of

LONGEST_VALUE: Final = 131_072
"""Characters of the longest text that is looked up; a longer one counts as model text."""
LONGEST_SOURCE: Final = 4 * 2**20
"""Characters of one source that are indexed. Anything may come from the rest."""
LONGEST_SOURCES: Final = 32 * 2**20
"""Characters of all sources that are indexed."""
_EFFORT: Final = 24 * 2**20
_ROOM: Final = 65_536
"""Characters that encoded pieces of a text may say besides some times its own length. What is over may be anything."""
_PARTS: Final = 1024
_PHRASES: Final = (LONGEST_PHRASE, 24, 8, 4, 3, 2, 1)
_REMEMBERED: Final = 4096
_SHORTEST_DECODED: Final = 4
_SHORTEST_PART: Final = 2
_SHORTEST_MIRRORED: Final = 6
_SHORT_NUMBER: Final = 4
_DIGITS: Final = frozenset("0123456789")
_CODE_DIGITS: Final = 4
_CODE_GAPS: Final = frozenset(" -./+")
_OCTETS: Final = 4
_SPAWN: Final = "agent.spawn"
_URL_HEADS: Final = ("https://", "http://", "mailto:", "tel:", "www.")


class Sources:
    """Everything that a run was told and has read, in order; it only grows."""

    __slots__ = (
        "_characters",
        "_count",
        "_currencies",
        "_labels",
        "_read",
        "_remembered",
        "_said",
        "_spoken",
        "_tools",
        "_unread",
        "_when",
    )

    def __init__(self) -> None:
        """Begins with nothing said and nothing read."""
        self._said = Index(strict=True)
        self._read = Index(strict=False)
        self._spoken = Index(strict=True)
        self._when: dict[str, int] = {}
        self._labels: frozenset[str] = frozenset()
        self._tools: list[str] = []
        self._currencies: frozenset[str] = frozenset()
        self._unread: list[Owner] = []
        self._count = 0
        self._characters = 0
        self._remembered: dict[tuple[type, object], Origin] = {}

    @property
    def labels(self) -> frozenset[str]:
        """The labels of everything read so far: what model text carries now."""
        return self._labels

    def user(self, text: object) -> str:
        """Takes the user's own words (a text, or JSON with texts) and returns the source's id."""
        source = self._next("user:")
        texts = [
            str(leaf)
            for _, leaf in leaves_of(text)
            if isinstance(leaf, str | int | float) and not isinstance(leaf, bool)
        ]
        self._index(self._said, Owner(source, frozenset()), texts)
        self._currencies = self._currencies.union(*(currencies_in(fold(each[:LONGEST_SOURCE])) for each in texts))
        return source

    def tool(
        self,
        name: str,
        output: object,
        labels: Iterable[str] = (),
        by_field: Mapping[str, Iterable[str]] | None = None,
    ) -> str:
        """Takes what a tool returned and returns the source's id.

        Args:
            name: The tool.
            output: A text, or JSON. Text that is JSON is read as such if there are labels for fields.
            labels: Of the whole output.
            by_field: Further labels of single fields and of what is below them: `{"body": ["untrusted"], "emails[].subject": …}`.
                Members of lists are meant with the list, `*` is any name. If the output has no fields, it has all the labels.
        """
        source = self._next(f"{name}#")
        whole = frozenset(labels)
        fields = [(steps_of(field), frozenset(each)) for field, each in (by_field or {}).items()]
        value = _parsed(output) if fields and isinstance(output, str | bytes) else output
        if fields and not isinstance(value, Mapping | list | tuple):
            whole = whole.union(*(each for _, each in fields))
        self._labels = self._labels.union(whole, *(each for _, each in fields))
        self._tools.append(source)
        texts: dict[frozenset[str], list[str]] = {}
        for path, leaf in leaves_of(value):
            self._take_leaf(source, texts, whole | labels_at(path, fields), path, leaf)
        for found, each in texts.items():
            self._index(self._read, Owner(source, found), each)
        return source

    def model(self, text: object) -> str:
        """Takes what the model said and returns the source's id.

        What it said before it read something cannot be from there: it keeps the labels of what had been read by then.
        """
        source = self._next("model:")
        self._when[source] = len(self._tools)
        texts = [leaf for _, leaf in leaves_of(text) if isinstance(leaf, str)]
        self._index(self._spoken, Owner(source, self._labels), texts)
        return source

    def spawn(self, text: object, labels: Iterable[str] = ()) -> str:
        """Takes what the model of another run said, such as the task of a run that it started, and returns the source's id.

        That is model text, and no word of the user's: it counts where neither the user's words nor a tool's output hold a value.

        Args:
            text: What it said.
            labels: Of what it had read, and of its words; the labels of all that was read here by then are added.
        """
        source = self._next(f"{_SPAWN}#")
        self._labels = self._labels.union(labels)
        self._tools.append(source)
        self._when[source] = len(self._tools)
        texts = [leaf for _, leaf in leaves_of(text) if isinstance(leaf, str)]
        self._index(self._spoken, Owner(source, self._labels), texts)
        return source

    def origins(self, arguments: object, parameters: Mapping[str, object] | None = None) -> dict[str, Origin]:
        """Returns the origin of each leaf by its path (`to[0]`), with the values that the schema lists itself as constants."""
        constants = constants_in(arguments, parameters) if parameters is not None else set()
        found: dict[str, Origin] = {}
        for path, leaf in leaves_of(arguments):
            name = shown(path)
            origin = CONSTANT if name in constants else self._leaf(leaf)
            found[name] = join((found[name], origin)) if name in found else origin
        return found

    def origin(self, value: object, /) -> Origin:
        """Returns where a value is from; of a list or object, the origins of all its leaves together. It never raises."""
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return join(self._leaf(leaf) for _, leaf in leaves_of(value))
        return self._leaf(value)

    def _next(self, prefix: str) -> str:
        self._count += 1
        self._remembered.clear()
        return f"{prefix}{self._count}"

    def _take_leaf(
        self, source: str, texts: dict[frozenset[str], list[str]], labels: frozenset[str], path: Path, leaf: object
    ) -> None:
        if isinstance(leaf, bytes):
            leaf = leaf.decode("utf-8", "replace")
        elif isinstance(leaf, Mapping):
            leaf = str(leaf.get("$number"))
        if path and isinstance(path[-1], str):
            texts.setdefault(labels, []).append(path[-1])
        if isinstance(leaf, str):
            texts.setdefault(labels, []).append(leaf)
        elif isinstance(leaf, int | float | Decimal) and not isinstance(leaf, bool):
            number = number_of(leaf)
            texts.setdefault(labels, []).extend(sorted(number.sure) if number is not None else ())
        elif leaf is not None and not isinstance(leaf, bool):
            self._unread.append(Owner(source, labels, ("unread",)))

    def _index(self, index: Index, owner: Owner, texts: list[str]) -> None:
        kept: list[str] = []
        decoded: dict[tuple[str, ...], list[str]] = {}
        room = min(LONGEST_SOURCE, LONGEST_SOURCES - self._characters)
        for text in texts:
            if len(text) > room:
                self._unread.append(owner)
                text = text[: max(room, 0)]  # noqa: PLW2901 (the rest may be anything: see `_unread`)
            room -= len(text)
            self._characters += len(text)
            kept.append(text)
            inside, is_all = embedded(text, _ROOM + (2 if len(text) > _ROOM else 8) * len(text))
            if not is_all:
                self._unread.append(owner)
            for inner, how in inside:
                decoded.setdefault(how, []).append(inner)
        index.add(owner, kept)
        for how, inner_texts in decoded.items():
            index.add(Owner(owner.source, owner.labels, how), inner_texts)

    def _leaf(self, leaf: object) -> Origin:
        if isinstance(leaf, Mapping) and is_number(leaf):
            leaf = _decimal(leaf["$number"])
        if leaf is None or isinstance(leaf, bool) or leaf == "":
            return CONSTANT
        if isinstance(leaf, Decimal) and not leaf.is_finite():
            return self._model("not-a-number")
        if not isinstance(leaf, str | int | float | Decimal):
            return self._model("unread" if isinstance(leaf, TooDeep) else "unknown-type")
        key = (type(leaf), leaf)
        known = self._remembered.get(key)
        if known is None:
            known = self._text(leaf) if isinstance(leaf, str) else self._number(leaf)
            if len(self._remembered) < _REMEMBERED:
                self._remembered[key] = known
        return known

    def _model(self, how: str = "model") -> Origin:
        return Origin(frozenset({"model"}), self._labels, (), (how,), tuple(self._tools))

    def _number(self, value: float | Decimal) -> Origin:
        numbers = number_of(value)
        if numbers is None:
            return self._model("not-a-number")
        return self._by_value(next(iter(numbers.sure)), numbers)

    def _text(self, text: str) -> Origin:
        if len(text) > LONGEST_VALUE:
            return self._model("too-long")
        return self._by_value(text, number_of(text))

    def _by_value(self, text: str, numbers: Numbers | None) -> Origin:
        # digits are the user's only as a number or a code of their own: those of a date or of another number are not
        is_number = numbers is not None
        search = _Search(self._said, self._read, self._spoken, text, numbers)
        is_foreign = is_number and bool(self._currencies) and not currencies_in(fold(text)) <= self._currencies
        said = None if is_foreign else search.said(phrases=not is_number)
        if said is not None:
            return said
        held, certain = search.read()
        labelled = held is not None and bool(held.labels)
        if not labelled and not is_foreign:
            loosely = search.said_loosely()
            if loosely is not None and not search.effort.spent:
                return self._with_unread(loosely)
        if search.effort.spent:
            return join((self._model("too-much"), held)) if held is not None else self._model("too-much")
        if held is not None:
            mirrored = search.mirrored() if certain and not labelled else None
            held = held if mirrored is None else join((held, mirrored))
            return self._with_unread(held if certain or labelled else join((held, self._model())))
        spoken = search.spoken()
        if spoken is not None:
            read = tuple(self._tools[: self._when[spoken.source]])
            return self._with_unread(Origin(frozenset({"model"}), spoken.labels, (spoken.source,), ("model",), read))
        return self._with_unread(self._model() if is_number else self._pieces(search))

    def _with_unread(self, origin: Origin) -> Origin:
        if not self._unread:
            return origin
        rest = (Origin(frozenset({"tool"}), each.labels, (each.source,), ("unread",)) for each in self._unread)
        return join((origin, *rest))

    def _pieces(self, search: _Search) -> Origin:
        """Returns the join of the parts; a part that is nobody's is the model's."""
        words, parts, at = search.words, list[Origin](), 0
        while at < len(words.words):
            if len(parts) > _PARTS or search.effort.spent:
                return join((*parts, self._model("too-much")))
            piece = search.piece(at)
            if piece is None:
                return join((*parts, self._model()))
            parts.append(piece[0])
            at = piece[1]
        if not parts:
            return self._model()
        if any(map(steps_upwards, words.gaps[1:])):
            return join((*parts, self._model()))  # nobody wrote the step: the parts say less than the whole
        whole = join(parts)
        further = (search.mirrored(), search.dictated() if len(parts) > 1 else None)
        return join((whole, *(each for each in further if each is not None)))


class _Search:
    """One value, looked up in what was said and in what was read."""

    __slots__ = ("_numbers", "_read", "_said", "_spoken", "_text", "effort", "forms", "moments", "words")

    def __init__(self, said: Index, read: Index, spoken: Index, text: str, numbers: Numbers | None) -> None:
        self._said, self._read, self._spoken, self._text, self._numbers = said, read, spoken, text, numbers
        self.effort = Effort(_EFFORT)
        folded = fold(text)
        self.words = words_of(folded)
        self.moments = parts_of(folded)
        self.forms = _forms(text, folded, self.words)

    def said(self, *, phrases: bool) -> Origin | None:
        """Returns the user as the origin, if those are the user's words for certain; `phrases`: also those that are no numbers."""
        for words, how in self.forms:
            if is_binary(how) or not phrases:
                continue
            owners = self._told(words, how)
            if owners:
                return _user(self._said, owners, how or ("exact",))
        if self._numbers is not None:
            whole = {owner for each in self._numbers.sure for owner in self._said.keyed(f"n:{each}").whole}
            if whole and len(self._numbers.sure) == 1:
                return _user(self._said, whole, ("number",))
        if self.moments is not None:
            dated = [self._moment(self._said, keys) for keys in self.moments]
            if all(dated):
                return _user(self._said, set().union(*dated), ("date",))
        owners_of_code = self._code(self._said, certain=True)
        return _user(self._said, owners_of_code, ("code",)) if owners_of_code else None

    def _told(self, words: Words, how: tuple[str, ...]) -> set[int]:
        """Returns in whose words a form of the value stands; what is encoded and says a number has to be a number there, too."""
        numbers = number_of(words.text()) if how else None
        if numbers is not None:
            return set().union(*(self._said.keyed(f"n:{each}").whole for each in numbers.sure))
        found = self._phrase(self._said, words, parts=False)
        return set() if found is None else found[0]

    def said_loosely(self) -> Origin | None:
        """Returns the user as the origin, if those are the user's words by a second reading or under a binary encoding."""
        for words, how in self.forms:
            if (
                is_binary(how)
                and sum(map(len, words.words)) >= _SHORTEST_DECODED
                and not _DIGITS.issuperset(self._text)
            ):
                owners = self._told(words, how)
                if owners:
                    return _user(self._said, owners, how)
        if self._numbers is not None:
            loose = {
                owner
                for each in self._numbers.sure | self._numbers.maybe
                for owner in self._said.keyed(f"n:{each}").any
            }
            if loose:
                return _user(self._said, loose, ("number",))
        if self.moments is not None:
            dated = [
                set().union(*(self._said.keyed(key).any | self._said.keyed(without_year(key)).any for key in keys))
                for keys in self.moments
            ]
            if all(dated):
                return _user(self._said, set().union(*dated), ("date",))
        return None

    def read(self) -> tuple[Origin | None, bool]:
        """Returns the tools' outputs that hold the value, and whether they hold it as it is."""
        whole: dict[int, tuple[str, ...]] = {}
        loose: dict[int, tuple[str, ...]] = {}
        phrases = self._numbers is None or len(self._text.strip()) > _SHORT_NUMBER
        for words, how in self.forms if phrases else ():
            found = self._phrase(self._read, words, parts=True)
            if found is not None:
                for owner in sorted(found[0]):
                    whole.setdefault(owner, how or ("exact",))
                for owner in sorted(found[1]):
                    loose.setdefault(owner, how or ("substring",))
        if self._numbers is not None:
            for each in sorted(self._numbers.sure | self._numbers.maybe):
                numbers = self._read.keyed(f"n:{each}")
                whole.update((owner, ("number",)) for owner in sorted(numbers.whole) if owner not in whole)
                loose.update((owner, ("number",)) for owner in sorted(numbers.loose) if owner not in loose)
        if self.moments is not None:
            owners = [self._moment(self._read, keys) for keys in self.moments]
            if all(owners):
                whole.update((owner, ("date",)) for owner in sorted(set().union(*owners)) if owner not in whole)
        for owner in sorted(self._code(self._read, certain=False)):
            loose.setdefault(owner, ("punctuation",))
        found_in = {**loose, **whole}
        if not found_in:
            return None, False
        return _tool(self._read, found_in), bool(whole)

    def mirrored(self) -> Origin | None:
        """Returns labelled outputs that hold the value backwards or under ROT13; these count only against a value."""
        held: dict[int, tuple[str, ...]] = {}
        for how, text in (("reversed", self._text[::-1]), ("rot13", codecs.encode(self._text, "rot13"))):
            words = words_of(fold(text))
            if sum(map(len, words.words)) < _SHORTEST_MIRRORED:
                continue
            found = self._phrase(self._read, words, parts=True)
            if found is not None:
                held.update((owner, (how,)) for owner in sorted(found[0] | found[1]) if self._read.owner(owner).labels)
        return _tool(self._read, held) if held else None

    def dictated(self) -> Origin | None:
        """Returns labelled outputs with all the words of a name that nobody wrote as a whole: they may have said how to join them."""
        if len(self._text.split()) > 1:
            return None
        holders = self._read.holders(self.words.words)
        held = {owner: ("parts",) for owner in sorted(holders) if self._read.owner(owner).labels}
        return _tool(self._read, held) if held else None

    def spoken(self) -> Owner | None:
        """Returns the first of the model's own texts that has the value as a whole."""
        if sum(map(len, self.words.words)) < _SHORTEST_DECODED:
            return None
        found = self._phrase(self._spoken, self.words, parts=False)
        return None if found is None else self._spoken.owner(min(found[0]))

    def piece(self, at: int) -> tuple[Origin, int] | None:
        """Returns the origin of a longest part of the value from a word on, and where it ends; `None` if it is nobody's."""
        words = self.words
        for length in _PHRASES:
            end = at + length
            if end > len(words.words):
                continue
            if all(map(self._said.has, words.words[at:end])):
                text = words.text(at, end)
                if length > 1 or len(text) >= _SHORTEST_PART:
                    said = self._said.phrase(words.words[at:end], text, self.effort, parts=False)
                    if said.whole and self._may_be_joined(at, end):
                        return _user(self._said, said.whole, ("part",)), end
            if length <= 8 and all(map(self._read.has, words.words[at:end])):  # noqa: PLR2004 (longer parts are joined of these)
                read = self._read.phrase(words.words[at:end], words.text(at, end), self.effort, parts=True)
                if read.whole:
                    return _tool(self._read, dict.fromkeys(sorted(read.whole), ("part",))), end
        return None

    def _may_be_joined(self, at: int, end: int) -> bool:
        """Says whether a part of the value is the user's also with what it is joined to: no piece of another name of the user's."""
        words = self.words
        if not ((at > 0 and joins(words.gaps[at])) or (end < len(words.words) and joins(words.gaps[end]))):
            return True
        return self._said.free(words.words[at:end], words.text(at, end), self.effort)

    def _phrase(self, index: Index, words: Words, *, parts: bool) -> tuple[set[int], set[int]] | None:
        """Returns the owners of all windows of a text: of the whole text in one owner's words, or nothing."""
        count = len(words.words)
        if count == 0:
            return None
        whole: set[int] | None = None
        loose: set[int] | None = None
        for start in range(0, count, LONGEST_PHRASE):
            end = min(count, start + LONGEST_PHRASE)
            found = index.phrase(
                words.words[start:end], words.text(start, end), self.effort, parts=parts or count > end
            )
            whole = found.whole if whole is None else whole & found.whole
            loose = found.any if loose is None else loose & found.any
            if not loose:
                return None
        whole, loose = whole or set(), (loose or set()) - (whole or set())
        return (whole, loose) if whole or parts else None

    def _moment(self, index: Index, keys: set[str]) -> set[int]:
        return set().union(*(index.keyed(key).whole for key in keys)) if len(keys) == 1 else set()

    def _code(self, index: Index, *, certain: bool) -> set[int]:
        squeezed = "".join(self.words.words)
        digits = sum(each in _DIGITS for each in squeezed)
        if certain and not (
            _is_code(self.words, self._text) and digits >= _CODE_DIGITS and 2 * digits >= len(squeezed)
        ):
            return set()
        return {
            owner
            for owner, text in index.code(squeezed, self.effort)
            if not certain or (_CODE_GAPS.issuperset(_gaps_in(text)) and text.count(".") != 1 and "," not in text)
        }


def _forms(text: str, folded: str, words: Words) -> list[tuple[Words, tuple[str, ...]]]:
    """Returns the value as words in every form in which it is looked up, the plainest first."""
    found: dict[Words, tuple[str, ...]] = {words: ()}
    for reading, how in readings(text):
        each = fold(reading) if how else folded
        found.setdefault(words_of(each), how)
        bare = each.strip()
        for head in _URL_HEADS:
            bare = bare.removeprefix(head)
        if bare != each:
            found.setdefault(words_of(bare), (*how, "url"))
    return list(found.items())


def _is_code(words: Words, text: str) -> bool:
    """Says whether it is a phone or account number or the like, and no amount, date or network address."""
    inner = words.gaps[1:-1]
    if not all(_CODE_GAPS.issuperset(gap) for gap in inner):
        return False
    if any(each in text for each in ".,") and number_of(text) is not None:
        return False
    dotted = text.strip().split(".")
    return not (len(dotted) == _OCTETS and all(map(str.isdigit, dotted))) and parts_of(fold(text)) is None


def _gaps_in(text: str) -> set[str]:
    return {each for each in text if not each.isalnum()}


def _user(index: Index, owners: Iterable[int], how: tuple[str, ...]) -> Origin:
    sources = tuple(dict.fromkeys(index.owner(owner).source for owner in sorted(owners)))
    return Origin(frozenset({"user"}), frozenset(), sources, how)


def _tool(index: Index, held: Mapping[int, tuple[str, ...]]) -> Origin:
    owners = [(index.owner(number), how) for number, how in sorted(held.items())]
    return Origin(
        frozenset({"tool"}),
        frozenset[str]().union(*(owner.labels for owner, _ in owners)),
        tuple(dict.fromkeys(owner.source for owner, _ in owners)),
        tuple(dict.fromkeys(each for owner, how in owners for each in (*owner.how, *how))),
    )


def _parsed(output: str | bytes) -> object:
    try:
        return orjson.loads(output)
    except orjson.JSONDecodeError:
        return output.decode("utf-8", "replace") if isinstance(output, bytes) else output


def _decimal(text: object) -> object:
    try:
        return Decimal(str(text))
    except ArithmeticError:
        return str(text)
