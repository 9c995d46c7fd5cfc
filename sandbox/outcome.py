"""What came of a job: its result, from what was seen of it from outside."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

from holdfast.contracts.tiers import KERNEL
from sandbox.job import SENTENCES, Because, Killed, Limits, Raised, Result, shown
from sandbox.layers import Receipt
from sandbox.native.cgroups import Use
from sandbox.native.files import Collector
from sandbox.native.watch import Watched

_TEXT_MAX: Final = 16_000
_SIGNALS: Final = frozenset(number for number in signal.Signals if number < signal.SIGRTMIN)
"""What can end a job's first process; it does not listen to others. A backend that tells of an end as a shell does, by 128 and a
signal's number, tells of a status so that the job has chosen."""
_NOT_SAID: Final = "which one, gVisor does not say"
_OTHER_NUMBERS: Final = "one by the numbers of another architecture"
_OUT_OF_MEMORY: Final = (b"JavaScript heap out of memory", b"Fatal process OOM")
"""What Node prints before it ends itself by a signal."""
_ITS_WORD: Final = "By its own word it was out of memory."


def outcome(
    limits: Limits,
    watched: Watched,
    use: Use | None,
    report: dict[str, object],
    collector: Collector,
    receipt: Receipt,
    *,
    warm: bool,
    full: bool,
) -> Result:
    """Returns a job's result.

    Args:
        limits: What it could use.
        watched: What was seen of it.
        use: What it used, as its cgroup says; nothing where it has none.
        report: What it says itself of the exception it ended with.
        collector: What took its output files.
        receipt: In which layers it ran.
        warm: Whether a process was ready for it.
        full: Whether its folder is full.
    """
    status = os.waitstatus_to_exitcode(watched.ended.status)
    killed, exhausted = _why(limits, watched, use, status, full=full, own_kernel=receipt.tier == KERNEL)
    return Result(
        exit_status=status if status >= 0 else 128 - status,
        stdout=watched.stdout,
        stderr=watched.stderr,
        raised=_raised(report) if status > 0 else None,
        killed=killed,
        exhausted=exhausted,
        files=tuple(collector.files),
        refused=collector.refused,
        wall_ms=watched.wall_ms,
        cpu_ms=use.cpu_ns / 1e6 if use is not None and use.cpu_ns else watched.ended.cpu_s * 1000,
        memory_peak_bytes=use.memory_peak_bytes if use is not None else watched.ended.rss_kib * 1024,
        warm=warm,
        receipt=receipt,
    )


def _why(
    limits: Limits, watched: Watched, use: Use | None, status: int, *, full: bool, own_kernel: bool
) -> tuple[Killed | None, tuple[Because, ...]]:
    """Returns why a job was ended, if it was, and what it ran out of otherwise."""
    exhausted = []
    if use is not None and use.memory_kills:
        exhausted.append(Because.MEMORY)
    if use is not None and use.pids_refused:
        exhausted.append(Because.PIDS)
    if full:
        exhausted.append(Because.DISK)
    because, detail = watched.killed or (None, "")
    if because is None and -status in _SIGNALS:
        because, detail = _by_signal(limits, watched, -status, exhausted, own_kernel=own_kernel)
    if because is None:
        return None, tuple(exhausted)
    sentence = SENTENCES[because].format(detail)
    if because == Because.SIGNAL and any(words in watched.stderr for words in _OUT_OF_MEMORY):
        sentence = f"{sentence} {_ITS_WORD}"
    return Killed(because, sentence, detail), tuple(exhausted)


def _by_signal(
    limits: Limits, watched: Watched, number: int, exhausted: Sequence[Because], *, own_kernel: bool
) -> tuple[Because, str]:
    """Returns what a signal means that a job was ended by, and not by this side."""
    if Because.MEMORY in exhausted:
        return Because.MEMORY, ""
    if number in (signal.SIGKILL, signal.SIGXCPU) and _used_up(limits, watched, own_kernel=own_kernel):
        return Because.CPU, ""
    if number == signal.SIGXFSZ or (number == signal.SIGBUS and Because.DISK in exhausted):
        return Because.DISK, ""
    if number == signal.SIGSYS:
        # the host's kernel tells of all others by their number
        return Because.FORBIDDEN_CALL, _NOT_SAID if own_kernel else _OTHER_NUMBERS
    return Because.SIGNAL, signal.Signals(number).name


def _used_up(limits: Limits, watched: Watched, *, own_kernel: bool) -> bool:
    """Says whether a job has come to its limit of CPU time. Nothing inside can kill its first process otherwise.

    The kernel counts that limit in ticks, coarser than what a process has used in the end. gVisor's count goes on while it waits for a
    processor of the host, so there it is as long as the limit that the job has run.
    """
    return watched.ended.cpu_s >= limits.cpu_s / 2 or (own_kernel and watched.wall_ms >= limits.cpu_s * 1000)


def _raised(report: dict[str, object]) -> Raised | None:
    kind, message, traceback, line = (report.get(name) for name in ("kind", "message", "traceback", "line"))
    if (
        not isinstance(kind, str)
        or not isinstance(message, str)
        or not isinstance(traceback, str)
        or not isinstance(line, int)
    ):
        return None
    return Raised(shown(kind)[:200], shown(message)[:_TEXT_MAX], line, shown(traceback)[:_TEXT_MAX])
