from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.errors import LeaseLost


@dataclass
class LiveLease:
    """A lease that lives until a test says otherwise, and counts what is asked of it."""

    begun: int = 0
    checked: int = 0
    lost_before_begin: bool = False
    lost_before_writing: bool = False
    remaining_ms: int = 60_000
    at_begin: Callable[[], None] = field(default=lambda: None)

    async def begin(self) -> None:
        if self.lost_before_begin:
            raise LeaseLost("lost before begin")
        self.begun += 1
        self.at_begin()

    def assert_live(self) -> None:
        self.checked += 1
        if self.lost_before_writing:
            raise LeaseLost("lost before writing")
