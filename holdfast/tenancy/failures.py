"""Failed authentication goes to the platform's own decision log: one by one up to a bound, beyond it as counts.

So a flood of wrong keys can neither go unseen nor drown the log.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.database.engine import AWAY, transaction
from holdfast.decisions.record import record_event
from holdfast.ids import PLATFORM_TENANT_ID
from holdfast.tenancy.keys import KeyRefused

_log = structlog.get_logger(__name__)

PER_PREFIX_AND_SECOND_MAX: Final = 3
PER_SECOND_MAX: Final = 20
_COUNTED_PREFIXES_MAX: Final = 100


class FailureLog:
    """Records refused keys. One instance serves a process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._second = 0
        self._recorded: Counter[str] = Counter()
        self._suppressed: Counter[tuple[str, str]] = Counter()

    async def note(self, refused: KeyRefused) -> None:
        """Records one refusal, or counts it if there were many in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._recorded.clear()
        prefix = refused.prefix
        if self._recorded[prefix] >= PER_PREFIX_AND_SECOND_MAX or self._recorded.total() >= PER_SECOND_MAX:
            known = (prefix, refused.reason) in self._suppressed or len(self._suppressed) < _COUNTED_PREFIXES_MAX
            self._suppressed[prefix if known else "others", refused.reason] += 1
            return
        self._recorded[prefix] += 1
        await self._write(refused.reason, [(prefix, refused.reason, 1)])

    async def flush(self) -> None:
        """Records what was only counted so far; called every second and at the end."""
        if self._suppressed:
            counted = [(prefix, reason, count) for (prefix, reason), count in sorted(self._suppressed.items())]
            self._suppressed.clear()
            await self._write("flood", counted)

    async def _write(self, reason: str, counted: list[tuple[str, str, int]]) -> None:
        try:
            async with transaction(self._engine, PLATFORM_TENANT_ID) as connection:
                await record_event(
                    connection,
                    PLATFORM_TENANT_ID,
                    kind="auth",
                    verdict="deny",
                    code=f"auth.{reason}",
                    message=f"{sum(count for _, _, count in counted)} refused: {reason}",
                    facts={"refused": [{"prefix": p, "reason": r, "count": n} for p, r, n in counted]},
                )
        except AWAY as error:
            # the caller is refused all the same; only the record is late, or there twice where a commit's answer was lost
            self._suppressed.update({(prefix, why): count for prefix, why, count in counted})
            _log.warning("auth.failure_not_recorded", reason=reason, error=type(error).__name__)
