"""Failpoints of the processes under test: every place of an action's way, armed and disarmed by files while they run."""

from __future__ import annotations

import asyncio
import time
from itertools import product
from pathlib import Path
from typing import Final

PLACES: Final = (
    "reserve.before",
    "reserve.after",
    "redeem.before",
    "redeem.in",
    "redeem.after",
    "execute.before_outward",
    "execute.after_outward",
    "execute.in_stream",
    "outcome.before",
    "outcome.after",
    "settle.before",
    "settle.after",
)
_KINDS: Final = ("llm.call", "tool.call", "code.exec")
_ACTS: Final = ("park", "kill", "error")
_NO_KIND: Final = ("finish.before", "finish.after", "erasure.before_commit", "retention.before_commit")


class Points:
    """The failpoints of one stack.

    Args:
        folder: Where the markers lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process know all of them."""
        names = [*(f"{place}:{kind}" for place, kind in product(PLACES, _KINDS)), *_NO_KIND]
        points = [f"{name}={act}@{self._marker(name, act)}" for name, act in product(names, _ACTS)]
        return {"HOLDFAST_FAILPOINTS": ",".join(points)}

    def _marker(self, name: str, act: str) -> Path:
        return self._folder / f"{name.replace(':', '-')}.{act}"

    def kill(self, name: str) -> None:
        """The next one who comes by dies there."""
        self._marker(name, "kill").touch()

    def fail(self, name: str) -> None:
        """The next one who comes by fails there."""
        self._marker(name, "error").touch()

    def armed(self, name: str, act: str = "kill") -> bool:
        """Whether nobody has come by yet."""
        return self._marker(name, act).exists()

    def park(self, name: str) -> None:
        """Everybody who comes by waits there."""
        self._marker(name, "park").mkdir()

    def parked(self, name: str) -> list[int]:
        """The processes in which somebody waits there, one entry for each that waits."""
        return [int(ticket.name.partition(".")[0]) for ticket in self._marker(name, "park").glob("*")]

    async def until_parked(self, name: str, count: int = 1, *, within_s: float = 60.0) -> None:
        """Waits until so many wait there."""
        deadline = time.monotonic() + within_s
        while len(self.parked(name)) < count:
            assert time.monotonic() < deadline, f"{len(self.parked(name))} of {count} have come to {name}"
            await asyncio.sleep(0.02)

    def release(self, name: str) -> None:
        """Lets everybody go on who waits there; nobody has to wait there any more."""
        folder = self._marker(name, "park")
        # renamed first, so that nobody comes in between
        gone = folder.with_name(f"{folder.name}.{time.monotonic_ns()}")
        folder.rename(gone)
        for ticket in gone.glob("*"):
            ticket.unlink(missing_ok=True)
        gone.rmdir()

    def clear(self) -> None:
        """Disarms all of them."""
        for marker in self._folder.glob("*.park"):
            self.release(marker.name.removesuffix(".park").replace("-", ":"))
        for act in _ACTS:
            for marker in self._folder.glob(f"*.{act}"):
                marker.unlink(missing_ok=True)
