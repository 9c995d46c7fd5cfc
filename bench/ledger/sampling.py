"""Where a process spends its processor time, seen by looking at its stack after every few milliseconds of it."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

_EVERY_S: Final = 0.002
_SHOWN: Final = 40
_ROOT: Final = Path(__file__).resolve().parents[2]


class Sampler:
    """Counts, inside its blocks, which functions are on top of the stack and which anywhere on it."""

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._total = 0
        self._top: Counter[str] = Counter()
        self._anywhere: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Begins to look."""
        if self._on:
            signal.signal(signal.SIGPROF, self._look)
            signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Looks no more."""
        if self._on:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _look(self, _: int, frame: FrameType | None) -> None:
        self._total += 1
        names: list[str] = []
        while frame is not None:
            code = frame.f_code
            names.append(f"{_short(code.co_filename)}:{code.co_qualname}")
            frame = frame.f_back
        self._top.update(names[:1])
        self._anywhere.update(set(names))

    def lines(self) -> list[str]:
        """Returns what was seen: share on top, share anywhere, function."""
        if not self._total:
            return []
        shown = [name for name, _ in self._anywhere.most_common(_SHOWN)]
        return [
            f"{self._top[name] / self._total:6.1%} {self._anywhere[name] / self._total:6.1%} {name}" for name in shown
        ]


def _short(name: str) -> str:
    path = Path(name)
    if path.is_relative_to(_ROOT) and ".venv" not in path.parts:
        return str(path.relative_to(_ROOT))
    return "/".join(path.parts[-2:])
