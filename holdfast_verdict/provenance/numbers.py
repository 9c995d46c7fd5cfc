"""Numbers as people and machines write them: `1,234.50`, `1.234,50`, `1 234.5`, `$5k`, `one thousand two hundred`."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from holdfast_verdict.provenance.words import fold, is_alone

_RUN: Final = re.compile(r"[0-9]{1,40}(?:(?:[.,'’_\u00a0\u202f]|\s)?[0-9]{1,40}){0,24}")
_COUNTER: Final = re.compile(r"^[ \t>*-]{0,12}([0-9]{1,3})[.)][ \t]+(?=\S)", re.MULTILINE)
_RANGE: Final = re.compile(r"(?<![\w.,/@:-])([0-9]{1,15})\s?[-–]\s?([0-9]{1,15})(?![\w/@:-])(?![.,][0-9])")
_GROUPED: Final = re.compile(r"[0-9]{1,3}(?:[.,'’_\s\u00a0\u202f][0-9]{3})+")
_GROUPED_BY_TWO: Final = re.compile(r"[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?")
"""As in India: `12,34,567.50`."""
_LISTED: Final = re.compile(r"[0-9]+(?:,[0-9]+){2,}")
_CURRENCY: Final = ("usd", "eur", "gbp", "chf", "jpy", "us", "rs", "inr", "cad", "aud", "no", "nr")
_CURRENCY_WORDS: Final = frozenset({*_CURRENCY, "dollar", "dollars", "euro", "euros", "pound", "pounds", "francs"})
_SIGN: Final = "$£¥¢฿\u20a0-\u20cf"
_SIGNS: Final = frozenset({*"$£¥¢฿", *map(chr, range(0x20A0, 0x20D0))})
_MONIES: Final = {
    **dict.fromkeys(("$", "usd", "dollar", "dollars"), "usd"),
    **dict.fromkeys(("€", "eur", "euro", "euros"), "eur"),
    **dict.fromkeys(("£", "gbp", "pound", "pounds"), "gbp"),
    **dict.fromkeys(("¥", "jpy", "yen"), "jpy"),
    **dict.fromkeys(("chf", "francs"), "chf"),
}
_MONEY_SIGN: Final = re.compile(rf"[{_SIGN}]|[^\W\d_]+")
_JOINTS: Final = frozenset("._-/\\@:+~^")
_DIGIT_JOINTS: Final = ("-", "/", ":", ".")
_TIMES: Final = {
    "k": Decimal(1000),
    "m": Decimal(10**6),
    "mn": Decimal(10**6),
    "mio": Decimal(10**6),
    "million": Decimal(10**6),
    "bn": Decimal(10**9),
    "billion": Decimal(10**9),
    "thousand": Decimal(1000),
    "hundred": Decimal(100),
    "百": Decimal(100),
    "千": Decimal(1000),
    "万": Decimal(10**4),
    "萬": Decimal(10**4),
    "億": Decimal(10**8),
    "亿": Decimal(10**8),
}
_UNITS: Final = frozenset({"k", "m"})
"""Scales that may be units as well: carats, metres."""
_DATED: Final = frozenset("年月日号號時时分秒")
"""Behind digits these make a date or a time of them."""
_BESIDE: Final = (" ", "\n", "\t", "", '"')
_FOLLOWED: Final = frozenset("htmb%dedpufgcjir") | _SIGNS
_SCALE_WORD: Final = re.compile(r"\s(hundred|thousand|million|billion)(?![^\W_])")
_UNIT: Final = re.compile(r"[^\W\d_]{1,24}")
_LONGEST_UNIT: Final = 4
_LONGEST: Final = 60
_LEADS: Final = frozenset("+-−.")
_NUMBER: Final = re.compile(
    rf"([-+−]?)\s?(?:us\$|[{_SIGN}]|usd|eur|gbp|chf)?\s?([-+−]?)(\.?[0-9][0-9.,'’_\s\u00a0\u202f]*?)\s?(%|k|[{_SIGN}]|usd|eur|gbp|chf)?"
)
"""A value that is a number and nothing else."""
_ONES: Final = {
    word: number
    for number, word in enumerate(
        (
            *(
                "zero",
                "one",
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "eleven",
                "twelve",
            ),
            *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
_TENS: Final = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_HUNDRED: Final = 100
_GROUP: Final = 3
_CARD_GROUP: Final = 4
_ACCOUNT_CHECK: Final = 2


@dataclass(slots=True)
class Numbers:
    """Numbers found, as plain decimal text.

    Attributes:
        sure: Those that are there for anybody who reads it.
        maybe: Those of a second reading: `1.234` may be more than a thousand, `5 %` may be 0.05, `$5` may be 500 cents, `one` need
            be no number.
    """

    sure: set[str] = field(default_factory=set)
    maybe: set[str] = field(default_factory=set)


def plain(number: Decimal) -> str:
    """Returns one text for one number: no exponent, no trailing zeros."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def numbers_in(folded: str, *, strict: bool, but: Sequence[tuple[int, int]] = ()) -> Numbers:
    """Returns the numbers of a text. What counts the items of a list, from 1 on, is none.

    Args:
        folded: The text, in lower case.
        but: Where something else stands: dates and times.
        strict: Whether digits inside of names, paths and addresses are no numbers; those of dates, times and codes never are.
    """
    found = Numbers()
    others = sorted([*but, *_counters(folded)])
    for match in _RUN.finditer(folded):
        run, end = match[0], match.end()
        if others and _within(others, match.start(), end):
            continue
        if run.isdigit() and folded[match.start() - 1 : match.start()] in _BESIDE and folded[end : end + 1] in _BESIDE:
            if folded[end + 1 : end + 2] not in _FOLLOWED:
                found.sure.add(run.lstrip("0") or "0")
                continue
        elif strict and _is_code(folded, match):
            continue
        for start, end, is_group in _split(folded, match):
            if others and _within(others, start, end):
                continue
            if not (strict and is_group):
                _take(found, folded, start, end, strict=strict)
                continue
            part = Numbers()
            _take(part, folded, start, end, strict=strict)
            found.maybe |= part.sure | part.maybe
    for match in _RANGE.finditer(folded):
        found.sure.update((plain(Decimal(match[1])), plain(Decimal(match[2]))))
    return found


def currencies_in(folded: str) -> frozenset[str]:
    """Returns the currencies that a text names, so that the user's `$5` is not taken for a page's `€5`."""
    named = _MONEY_SIGN.findall(folded)
    return frozenset(_MONIES.get(each, each) for each in named if each in _MONIES or each in _SIGNS)


def spelled(words: Iterable[str]) -> Numbers:
    """Returns the numbers that are written in English words."""
    found = Numbers()
    run: list[str] = []
    for word in words:
        if word in _ONES or word in _TENS or word in _SCALES or word == "hundred" or (run and word == "and"):
            run.append(word)
        elif run:
            _spell(found, run)
            run = []
    if run:
        _spell(found, run)
    return found


def number_of(value: object) -> Numbers | None:
    """Returns the number that a value is, by its readings; `None` if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Numbers({str(value)}) if value.bit_length() <= 4 * _LONGEST else None
    if isinstance(value, float):
        return number_of(Decimal(repr(value)))
    if isinstance(value, Decimal):
        if not value.is_finite() or abs(value.adjusted()) > _LONGEST or len(value.as_tuple().digits) > _LONGEST:
            return None
        return Numbers({plain(value)})
    if isinstance(value, str):
        return _number_text(value)
    return None


def _number_text(text: str) -> Numbers | None:
    # as the words of a text are compared: whatever writes the same digits, and however they are set off, is the same number
    stripped = _bare(fold(text)) if len(text) <= 2 * _LONGEST else ""
    form = _NUMBER.fullmatch(stripped) if len(stripped) <= _LONGEST else None
    if form is None:
        return None
    sign = "-" if (form[1] or form[2]) in ("-", "−") else ""
    # no cents and no thousands left out: whoever said 500 has said neither $5 nor 500k
    found = numbers_in(f"{sign}{form[3]}{'%' if form[4] == '%' else ''}", strict=False)
    if form[4] == "k":
        found = Numbers(_thousands(found.sure), _thousands(found.maybe))
    return found if len(found.sure) == 1 else None


def _thousands(numbers: set[str]) -> set[str]:
    return {plain(Decimal(each) * _TIMES["k"]) for each in numbers}


def _bare(folded: str) -> str:
    """Returns what is left without the marks around it that say nothing of a number: brackets, quotes, `#`, `=`."""
    start, end = 0, len(folded)
    while start < end and not (folded[start].isalnum() or folded[start] in _LEADS or folded[start] in _SIGNS):
        start += 1
    while end > start and not (folded[end - 1].isalnum() or folded[end - 1] == "%" or folded[end - 1] in _SIGNS):
        end -= 1
    return folded[start:end]


def _split(text: str, run: re.Match[str]) -> Iterator[tuple[int, int, bool]]:
    """Yields the parts of a run of digits: white space parts numbers, but where it groups thousands; then each may be a group only."""
    if not any(each.isspace() for each in run[0]):
        yield *run.span(), False
        return
    grouped = re.fullmatch(r"[0-9]{1,3}(?:\s[0-9]{3})+(?:[.,][0-9]+)?", run[0]) is not None
    if grouped:
        yield *run.span(), False
    at = run.start()
    for part in re.split(r"(\s)", run[0]):
        if part and not part.isspace():
            yield at, at + len(part), grouped
        at += len(part)


def _counters(text: str) -> list[tuple[int, int]]:
    """Returns where the items of lists are counted: `1.`, `2.`, `3.` at the beginnings of lines, one after the other."""
    spans: list[tuple[int, int]] = []
    last = 0
    for match in _COUNTER.finditer(text):
        number = int(match[1])
        if number in (1, last + 1):
            spans.append(match.span(1))
            last = number
    return spans


def _within(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Says whether a place is within one of the spans, which are in their order."""
    at = bisect_right(spans, (start, sys.maxsize))
    return any(first <= start and end <= last for first, last in spans[max(0, at - 4) : at])


def _is_code(text: str, run: re.Match[str]) -> bool:
    """Says whether groups of digits are an account's, a card's or a telephone's number rather than numbers."""
    groups = run[0].split()
    if len(groups) == 1:
        return False
    before = text[max(0, run.start() - 5) : run.start()]
    *whole, last = map(len, groups)
    card = len(groups) >= _GROUP and set(whole) == {_CARD_GROUP} and last <= _CARD_GROUP
    account = len(groups[0]) == _ACCOUNT_CHECK and len(groups[1]) == _CARD_GROUP and before[-1:].isalpha()
    return card or account or before.endswith("+")


def _take(found: Numbers, text: str, start: int, end: int, *, strict: bool) -> None:
    is_fraction = _follows_bare_point(text, start) and text[start:end].isdigit()
    first = start - 1 if is_fraction else start
    at = first - 1 if text[max(0, first - 1) : first] in _SIGNS else first  # `-$5` is as little as `$-5`
    negative = at > 0 and text[at - 1] in "-−" and (at == 1 or not text[at - 2].isalnum())
    after = _UNIT.match(text, end)
    unit = after[0] if after is not None else ""
    unit = unit[0] if unit and is_alone(unit[0]) else unit
    first = at - 1 if negative else first
    if not (_alone(text, first, end, unit) if strict else _apart(text, first, end)):
        return
    sure, maybe = _read(f"0.{text[start:end]}" if is_fraction else text[start:end])
    if negative:
        sure, maybe = [-each for each in sure], [-each for each in maybe]
    scale = _TIMES.get(unit)
    if scale is None and (word := _SCALE_WORD.match(text, end)) is not None:
        scale = _TIMES[word[1]]
    is_money = _is_money(text, first, end, unit) or _is_money(text, start, end, unit)
    if scale is not None:
        # of the user's words, `50 thousand` and `$50k` are not 50; `50 m` may be metres
        unscaled = [] if strict and (is_money or unit not in _UNITS) else sure + maybe
        maybe = unscaled + [each * scale for each in maybe]
        sure = [each * scale for each in sure]
    if is_money:
        maybe = maybe + [each * 100 for each in sure]
    if text[end : end + 1] == "%" or text[end : end + 2] == " %":
        maybe = maybe + [each / 100 for each in sure]
    if any(each.isspace() for each in text[start:end]):
        sure, maybe = [], sure + maybe
    found.sure.update(map(plain, sure))
    found.maybe.update(map(plain, maybe))


def _follows_bare_point(text: str, start: int) -> bool:
    """Says whether a point with no digit, letter or other point before it stands there, as in `.5`."""
    before = text[max(0, start - 2) : start]
    return before[-1:] == "." and not (before[:-1].isalnum() or before[:-1] == ".")


def _is_money(text: str, start: int, end: int, unit: str) -> bool:
    """Says whether an amount has its currency with it, so that an interface may want it in cents."""
    if unit in _CURRENCY or text[end : end + 1] in _SIGNS or text[max(0, start - 1) : start] in _SIGNS:
        return True
    after = _UNIT.match(text, end + 1) if text[end : end + 1] == " " else None
    return after is not None and after[0] in _CURRENCY_WORDS


def _apart(text: str, start: int, end: int) -> bool:
    """Says whether digits are no part of a date, a time or a longer number."""
    before = start > 1 and text[start - 1] in _DIGIT_JOINTS and text[start - 2].isdigit()
    after = text[end : end + 1] in _DIGIT_JOINTS and text[end + 1 : end + 2].isdigit()
    return not before and not after


def _alone(text: str, start: int, end: int, unit: str) -> bool:
    if start > 0:
        before = text[start - 1]
        if before in _DATED:
            return False
        if before.isalpha() and not is_alone(before):
            letters = re.search(r"[^\W\d_]{1,4}$", text[max(0, start - 5) : start])
            if letters is None or letters[0] not in _CURRENCY:
                return False
        elif (before in _JOINTS and start > 1 and text[start - 2].isalnum()) or before == "_":
            return False
    if unit and is_alone(unit):
        return unit not in _DATED
    if unit:
        if unit not in _TIMES and len(unit) > _LONGEST_UNIT:
            return False
        end += len(unit)
    near, beyond = text[end : end + 1], text[end + 1 : end + 2]
    return not near.isalnum() and near != "_" and not (near in _JOINTS and near != "" and beyond.isalnum())


def _read(literal: str) -> tuple[list[Decimal], list[Decimal]]:
    """Returns the sure and the possible readings of digits with separators."""
    compact = re.sub(r"['’_\s\u00a0\u202f]", "", literal) if _GROUPED.match(literal) else literal
    if re.search(r"['’_\s\u00a0\u202f]", compact):
        return [], []
    marks = [each for each in compact if each in ".,"]
    with localcontext() as context:
        context.prec = 200
        if _GROUPED_BY_TWO.fullmatch(compact) is not None:
            return [Decimal(compact.replace(",", ""))], []
        if not marks:
            return [Decimal(compact)], []
        last = marks[-1]
        whole, _, fraction = compact.rpartition(last)
        grouped = _GROUPED.fullmatch(compact) is not None and not compact.startswith("0")
        if len(marks) == 1:
            as_fraction = Decimal(f"{whole}.{fraction}")
            if not grouped:
                return [as_fraction], []
            as_whole = Decimal(whole + fraction)
            return ([as_whole], [as_fraction]) if last == "," else ([as_fraction], [as_whole])
        if len(set(marks)) == 1:
            if grouped:
                return [Decimal(compact.replace(last, ""))], []
            listed = compact.split(",") if _LISTED.fullmatch(compact) is not None else []
            return [], [Decimal(each) for each in listed]
        if marks.count(last) == 1 and _GROUPED.fullmatch(whole) is not None:
            return [Decimal(f"{re.sub('[.,]', '', whole)}.{fraction}")], []
        return [], []


def _spell(found: Numbers, run: list[str]) -> None:
    total = group = 0
    for word in run:
        if word in _SCALES:
            total += max(group, 1) * _SCALES[word]
            group = 0
        elif word == "hundred":
            group = max(group, 1) * _HUNDRED
        elif word != "and":
            group += _ONES.get(word, 0) + _TENS.get(word, 0)
    text = str(total + group)
    (found.maybe if run in (["one"], ["hundred"], ["thousand"], ["million"], ["billion"]) else found.sure).add(text)
