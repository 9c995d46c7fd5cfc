"""Measures on a machine that others use as well: many short rounds side by side, of which the quiet ones count."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

Call = Callable[[], object]
_QUIET_SHARE: Final = 4


def _round_ns(calls: Sequence[Call], repeats: int) -> list[int]:
    clock = time.perf_counter_ns
    taken = []
    for _ in range(repeats):
        for call in calls:
            started = clock()
            call()
            taken.append(clock() - started)
    return taken


def sampled_us(calls: Sequence[Call], rounds: int, repeats: int = 20) -> list[float]:
    """Returns what single calls took in the quietest quarter of the rounds, sorted."""
    _round_ns(calls, repeats)
    gc.collect()
    taken = sorted((_round_ns(calls, repeats) for _ in range(rounds)), key=sum)
    quiet = taken[: max(1, rounds // _QUIET_SHARE)]
    return sorted(nanoseconds / 1000 for each in quiet for nanoseconds in each)


def percentile(samples: Sequence[float], share: float) -> float:
    """Returns a percentile of sorted samples."""
    return samples[min(len(samples) - 1, int(len(samples) * share))]


def fastest_us(sides: Sequence[Sequence[Call]], rounds: int, repeats: int = 20) -> list[float]:
    """Returns for each side the median over its calls of the fastest round of each, with the sides in turn within each round."""
    best = [[float("inf")] * len(side) for side in sides]
    clock = time.perf_counter_ns
    for _ in range(rounds):
        for side, fastest in zip(sides, best, strict=True):
            for number, call in enumerate(side):
                started = clock()
                for _ in range(repeats):
                    call()
                fastest[number] = min(fastest[number], (clock() - started) / repeats / 1000)
    return [statistics.median(fastest) for fastest in best]
