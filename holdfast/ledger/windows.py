"""Names of windows: for how long what was used of a cap counts."""

from __future__ import annotations

import re
from typing import Final

FIXED: Final = ("total", "hour", "day", "month")
"""For ever, or within one of the tenant's calendar."""

ROLLING_HOURS_MAX: Final = 24 * 31

PATTERN: Final = r"^(total|hour|day|month|([1-9]|[1-9][0-9]|[1-6][0-9]{2}|7[0-3][0-9]|74[0-4])h)$"
"""What a name may be; the last kind is rolling: so many hours back from any moment."""

SAYS: Final = f"write total, hour, day, month, or how many hours it rolls over, 1h to {ROLLING_HOURS_MAX}h"

_NAME: Final = re.compile(PATTERN, re.ASCII)


def require_window(name: str) -> str:
    """Returns the name of a window.

    Raises:
        ValueError: There is no such window.
    """
    if _NAME.fullmatch(name) is None or name.endswith("\n"):
        raise ValueError(f"{name[:20]!r} is no window: {SAYS}")
    return name


def rolling_hours(name: str) -> int | None:
    """Returns over how many hours a window rolls; None for one of the calendar."""
    return None if name in FIXED else int(name.removesuffix("h"))
