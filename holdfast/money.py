"""Money is an integer number of nano-dollars (10⁻⁹ dollars); text and decimals exist only at the edges."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

from holdfast.errors import RequestInvalid

NANO_PER_USD = 1_000_000_000


def nano_usd_from_decimal(amount_usd: Decimal) -> int:
    """Converts dollars to nano-dollars, rounding up so that no bound is ever too small.

    Args:
        amount_usd: A finite, non-negative amount in dollars.

    Raises:
        RequestInvalid: The amount is negative or not finite.
    """
    if not amount_usd.is_finite() or amount_usd < 0:
        raise RequestInvalid(f"{amount_usd} is not an amount of money", remedy="give a non-negative number of dollars")
    return int((amount_usd * NANO_PER_USD).to_integral_value(rounding=ROUND_CEILING))


def parse_usd(text: str) -> int:
    """Reads dollars such as `0.25` or `$0.25` and returns nano-dollars.

    Raises:
        RequestInvalid: The text is not a non-negative decimal number.
    """
    try:
        amount_usd = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise RequestInvalid(f"{text!r} is not an amount in dollars", remedy="write it like 0.25") from None
    return nano_usd_from_decimal(amount_usd)


def format_usd(amount_nano_usd: int) -> str:
    """Writes nano-dollars as exact dollars with at least four decimals, such as `$0.0125`."""
    sign = "-" if amount_nano_usd < 0 else ""
    whole, fraction = divmod(abs(amount_nano_usd), NANO_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(4, "0")
    return f"{sign}${whole}.{digits}"
