"""What clocks say: the time zones' tables are the machine's, which the deciding core does not read."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from holdfast.errors import RequestInvalid
from holdfast_verdict.engine.facts import LocalTime


def clocks(zone: str, now_ms: int) -> LocalTime:
    """Returns what the clocks of a zone say at a time.

    Raises:
        RequestInvalid: This machine knows no such zone.
    """
    try:
        local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        raise RequestInvalid(
            f"this machine knows no time zone {zone}",
            remedy="check its name, or install the time zones' tables (tzdata)",
        ) from None
    return LocalTime(local.date().isoformat(), local.hour, local.minute, local.isoweekday())
