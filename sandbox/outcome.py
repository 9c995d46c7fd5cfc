"""What came of a job: its result, from what was seen of it from outside."""

from __future__ import annotations

import os
import signal
from typing import Final

from holdfast.contracts.tiers import KERNEL
from sandbox.job import SENTENCES, Because, Killed, Limits, Raised, Result
from sandbox.layers import Receipt
from sandbox.native.cgroups import Use
from sandbox.native.files import Collector
from sandbox.native.watch import Watched

_TEXT_MAX: Final = 16_000


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
    # the host's kernel tells of all others by their number
    unnamed = (
        "which one, gVisor does not say" if receipt.tier == KERNEL else "one by the numbers of another architecture"
    )
    killed, exhausted = _why(limits, watched, use, status, unnamed, full=full)
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
    limits: Limits, watched: Watched, use: Use | None, status: int, unnamed: str, *, full: bool
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
    if because is None and status < 0:
        detail = signal.Signals(-status).name
        if Because.MEMORY in exhausted:
            because, detail = Because.MEMORY, ""
        # the kernel counts that limit in ticks, coarser than what a process has used in the end; nothing inside can kill it so
        elif watched.ended.cpu_s >= limits.cpu_s / 2 and -status in (signal.SIGKILL, signal.SIGXCPU):
            because, detail = Because.CPU, ""
        elif -status == signal.SIGXFSZ or (-status == signal.SIGBUS and full):
            because, detail = Because.DISK, ""
        elif -status == signal.SIGSYS:
            because, detail = Because.FORBIDDEN_CALL, unnamed
        else:
            because = Because.SIGNAL
    if because is None:
        return None, tuple(exhausted)
    return Killed(because, SENTENCES[because].format(detail), detail), tuple(exhausted)


def _raised(report: dict[str, object]) -> Raised | None:
    kind, message, traceback, line = (report.get(name) for name in ("kind", "message", "traceback", "line"))
    if (
        not isinstance(kind, str)
        or not isinstance(message, str)
        or not isinstance(traceback, str)
        or not isinstance(line, int)
    ):
        return None
    return Raised(kind[:200], message[:_TEXT_MAX], line, traceback[:_TEXT_MAX])
