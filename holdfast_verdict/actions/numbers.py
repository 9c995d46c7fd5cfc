"""Numbers: exact, never through binary floats where their text is at hand, and one form for each value."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Final

from holdfast_verdict.actions.refused import FormRefused, shown
from holdfast_verdict.canonical import MAX_INTEGER

DIGITS_MAX: Final = 40
FRACTION_KEY: Final = "$number"


def decimal_text(value: object) -> str | None:
    """Returns the one text of a number, such as `12.5`, or None if the value is none, or its text too long to be read again."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    text = value.strip() if isinstance(value, str) else str(value) if isinstance(value, Decimal) else repr(value)
    if len(text) > DIGITS_MAX or not text.isascii() or "_" in text:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > DIGITS_MAX:
        return None
    plain = plain_text(number)
    return plain if len(plain) <= DIGITS_MAX else None


def plain_text(number: Decimal) -> str:
    """Returns a finite decimal without exponent and trailing zeros; no zero has a sign."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def exact_number(value: int | float | Decimal) -> int | Decimal:
    """Returns an integer for a whole number, however it was written, and a decimal for one with a fraction.

    Raises:
        FormRefused: It is no number, or has more digits than every reader keeps.
    """
    if isinstance(value, int):
        return _within(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FormRefused("number.not_finite", f"{value} is not a number of JSON", "write a finite number")
        value = Decimal(repr(value))
    if not value.is_finite():
        raise FormRefused("number.not_finite", f"{value} is not a number of JSON", "write a finite number")
    if not value:
        return 0
    if abs(value.adjusted()) > DIGITS_MAX or len(value.as_tuple().digits) > DIGITS_MAX:
        raise FormRefused(
            "number.range", f"{shown(str(value))} has over {DIGITS_MAX} digits", "write fewer, or send it as text"
        )
    if value == value.to_integral_value():
        return _within(int(value))
    return Decimal(plain_text(value))


def _within(value: int) -> int:
    if abs(value) > MAX_INTEGER:
        raise FormRefused("number.range", "a whole number is outside ±(2^53 - 1)", "send it as text")
    return value
