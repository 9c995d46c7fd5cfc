"""What clocks say: the time zones' tables are the machine's, which the deciding core does not read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from holdfast.errors import RequestInvalid
from holdfast_verdict.engine.facts import LocalTime


def local_times(zones: Iterable[str], now: datetime) -> dict[str, LocalTime]:
    """Returns what clocks say at a time. A zone that this machine does not know is left out, and so unknown (LAW 7)."""
    told = {}
    for zone in zones:
        try:
            told[zone] = _local(zone, now)
        except (ZoneInfoNotFoundError, ValueError):
            continue
    return told


def local_times_at(zones: Iterable[str], now_ms: int) -> dict[str, LocalTime]:
    """Returns the same for a time in milliseconds of the epoch."""
    return local_times(zones, datetime.fromtimestamp(now_ms / 1000, UTC))


def clocks(zone: str, now_ms: int) -> LocalTime:
    """Returns what the clocks of a zone say at a time.

    Raises:
        RequestInvalid: This machine knows no such zone.
    """
    try:
        return _local(zone, datetime.fromtimestamp(now_ms / 1000, UTC))
    except (ZoneInfoNotFoundError, ValueError):
        raise RequestInvalid(
            f"this machine knows no time zone {zone}",
            remedy="check its name, or install the time zones' tables (tzdata)",
        ) from None


def _local(zone: str, now: datetime) -> LocalTime:
    local = now.astimezone(ZoneInfo(zone))
    return LocalTime(local.date().isoformat(), local.hour, local.minute, local.isoweekday())
