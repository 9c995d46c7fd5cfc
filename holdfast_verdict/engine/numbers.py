"""Exact numbers: integers, and decimal fractions as canonical actions write them (`{"$number": "12.5"}`). No floats (LAW 7)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from holdfast_verdict.engine.unknown import UNKNOWN, Unknown

Number = int | Fraction

_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,100})?")
NANO_PER: Final = {"usd": 1_000_000_000, "usd_cents": 10_000_000, "nano_usd": 1}


def decimal(text: object) -> Number | Unknown:
    """Reads plain decimal text."""
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None:
        return UNKNOWN
    return whole(Fraction(text))


def whole(number: Number) -> Number:
    """Returns an integer where the number is one."""
    return number.numerator if number.denominator == 1 else number


def number_of(value: object) -> Number | Unknown:
    """Reads a number of an action; a bool is none, and neither is a float."""
    if type(value) is int or type(value) is Fraction:
        return value
    if isinstance(value, dict) and len(value) == 1 and "$number" in value:
        return decimal(value["$number"])
    return UNKNOWN


def number_json(number: Number) -> int | dict[str, str]:
    """Writes a number as canonical actions do; fractions here are sums of decimals, and so end."""
    scaled = whole(number)  # fractions add up to whole numbers as well
    if isinstance(scaled, int):
        return scaled
    places = 0
    while scaled.denominator != 1:
        scaled *= 10
        places += 1
    digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
    sign = "-" if number < 0 else ""
    return {"$number": f"{sign}{digits[:-places]}.{digits[-places:]}"}


def nano_usd(number: Number, unit: str) -> int | Unknown:
    """Converts an amount of money; one that is finer than a nano-dollar is nobody's to round."""
    nano = number * NANO_PER[unit]
    return nano.numerator if nano.denominator == 1 else UNKNOWN
