"""Dates and times of day in the forms in which people and machines write them; no arithmetic, no `tomorrow`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sept sep",
            "october oct",
            "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
_ISO: Final = re.compile(r"(?<![0-9])([0-9]{4})([-/._])([0-9]{1,2})\2([0-9]{1,2})(?![0-9])")
_COMPACT: Final = re.compile(r"(?<![0-9])((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2})(?![0-9])")
_IDEOGRAPHIC: Final = re.compile(r"(?<![0-9])([0-9]{4})\s?年\s?([0-9]{1,2})\s?月\s?([0-9]{1,2})\s?[日号號]")
_NUMERIC: Final = re.compile(r"(?<![0-9])([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4}|[0-9]{2})(?![0-9])")
_DAY_FIRST: Final = re.compile(
    rf"(?<![0-9])([0-9]{{1,2}})(?:st|nd|rd|th|\.)?[\s-]{{1,2}}(?:of\s)?({_MONTH})(?![^\W_])\.?,?(?:[\s-]{{1,2}}([0-9]{{4}})(?![0-9]))?"
)
_MONTH_FIRST: Final = re.compile(
    rf"(?<![^\W_])({_MONTH})\.?[\s-]{{1,2}}(?:the\s)?([0-9]{{1,2}})(?:st|nd|rd|th)?(?![0-9a-z:])(?:,?[\s-]{{1,2}}([0-9]{{4}})(?![0-9]))?"
)
_CLOCK: Final = re.compile(
    r"(?<![0-9:])([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.0{1,9})?)?\s?(am|pm|a\.m\.|p\.m\.)?(?![0-9:])"
)
_HOUR: Final = re.compile(r"(?<![0-9:.,])([0-9]{1,2})\s?(am|pm|a\.m\.|p\.m\.)(?![a-z])")
_NAMED: Final = {"noon": "t:12:00", "midnight": "t:00:00"}
_NAMED_TIME: Final = re.compile(r"(?<![^\W_])(noon|midnight)(?![^\W_])")
_LONGEST: Final = 40
_NOTHING_LEFT: Final = re.compile(r"[\s,t]*(?:z|utc|[+-]00:?00)?[\s,]*")
_DAYS: Final = 31
_MONTHS_A_YEAR: Final = 12
_HOURS: Final = 24
_NOON: Final = 12
_MINUTES: Final = 60
_THIS_CENTURY: Final = 2000
_SHORT_YEAR: Final = 2


@dataclass(slots=True)
class Moments:
    """Dates (`d:2024-05-15`, `d:--05-15` without a year) and times of day (`t:14:30`).

    Attributes:
        sure: Those with one reading.
        maybe: Those with a second one: `05/06/2024`, or a day of which the year is not said.
        spans: Where they stand.
    """

    sure: set[str] = field(default_factory=set)
    maybe: set[str] = field(default_factory=set)
    spans: list[tuple[int, int]] = field(default_factory=list)


def moments_in(folded: str) -> Moments:
    """Returns the dates and times of a folded text."""
    found = Moments()
    if not any(each in folded for each in "0123456789") and "noon" not in folded and "midnight" not in folded:
        return found
    for match in _ISO.finditer(folded):
        _date(found, match, match[1], match[3], match[4])
    for match in _COMPACT.finditer(folded):
        _date(found, match, match[1], match[2], match[3])
    for match in _IDEOGRAPHIC.finditer(folded):
        _date(found, match, match[1], match[2], match[3])
    for match in _NUMERIC.finditer(folded):
        _numeric(found, match)
    for match in _DAY_FIRST.finditer(folded):
        _date(found, match, match[3], str(_MONTHS[match[2]]), match[1])
    for match in _MONTH_FIRST.finditer(folded):
        _date(found, match, match[3], str(_MONTHS[match[1]]), match[2])
    for match in _CLOCK.finditer(folded):
        _time(found, match, match[1], match[2], match[3], match[4])
    for match in _HOUR.finditer(folded):
        _time(found, match, match[1], "00", None, match[2])
    found.sure.update(_NAMED[match[1]] for match in _NAMED_TIME.finditer(folded))
    return found


def parts_of(folded: str) -> list[set[str]] | None:
    """Returns, for a value that is a date, a time or both, the possible keys of each of the two; `None` if it is more, or none."""
    text = folded.strip()
    if len(text) > _LONGEST:
        return None
    rest, parts = text, []
    for patterns in ((_ISO, _COMPACT, _IDEOGRAPHIC, _NUMERIC, _DAY_FIRST, _MONTH_FIRST), (_CLOCK, _HOUR, _NAMED_TIME)):
        for pattern in patterns:
            match = pattern.search(rest)
            if match is None:
                continue
            found = moments_in(match[0])
            if found.sure or found.maybe:
                parts.append(found.sure or found.maybe)
                rest = rest[: match.start()] + " " + rest[match.end() :]
                break
    return parts if parts and _NOTHING_LEFT.fullmatch(rest) else None


def without_year(key: str) -> str:
    """Returns the key of the same day of any year."""
    return f"d:-{key[6:]}" if key.startswith("d:") else key


def _date(found: Moments, match: re.Match[str], year: str | None, month: str, day: str) -> None:
    if not (1 <= int(month) <= _MONTHS_A_YEAR and 1 <= int(day) <= _DAYS):
        return
    found.spans.append(match.span())
    if year is None:
        found.maybe.add(f"d:--{int(month):02}-{int(day):02}")
    else:
        found.sure.add(f"d:{year}-{int(month):02}-{int(day):02}")


def _numeric(found: Moments, match: re.Match[str]) -> None:
    first, second = int(match[1]), int(match[3])
    year = match[4] if len(match[4]) > _SHORT_YEAR else str(_THIS_CENTURY + int(match[4]))
    both = Moments()
    _date(both, match, year, match[3], match[1])
    if match[2] != ".":
        _date(both, match, year, match[1], match[3])
    found.spans += both.spans
    (found.sure if len(both.sure) == 1 or first == second else found.maybe).update(both.sure)


def _time(found: Moments, match: re.Match[str], hour: str, minute: str, second: str | None, half: str | None) -> None:
    hours, minutes = int(hour), int(minute)
    if half is not None:
        if not 1 <= hours <= _NOON:
            return
        hours = hours % _NOON + (_NOON if half.startswith("p") else 0)
    if hours < _HOURS and minutes < _MINUTES:
        found.spans.append(match.span())
        seconds = "" if second in (None, "00") else f":{second}"
        found.sure.add(f"t:{hours:02}:{minutes:02}{seconds}")
