"""What clocks say: the time zones' tables are the machine's, which the deciding core does not read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from holdfast_verdict.engine.facts import LocalTime


def local_times(zones: Iterable[str], now: datetime) -> dict[str, LocalTime]:
    """Returns what clocks say at a time. A zone that this machine does not know is left out, and so unknown (LAW 7)."""
    told = {}
    for zone in zones:
        try:
            local = now.astimezone(ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError):
            continue
        told[zone] = LocalTime(local.date().isoformat(), local.hour, local.minute, local.isoweekday())
    return told
