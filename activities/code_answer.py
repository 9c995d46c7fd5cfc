"""What came of a run of code, as it is stored, priced and shown: to the model, to people, in the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from typing import Final

import orjson

from holdfast.ledger.types import OutcomeView
from holdfast_verdict.canonical import JsonValue
from sandbox.job import Result, printable
from sandbox.layers import Receipt

FAILED: Final = "code.failed"
KILLED: Final = "code.killed"

_SHOWN_MAX: Final = 16_000
_MIB: Final = 2**20
_STARTUP_CPU_MS: Final = 250


def used_of(result: Result) -> dict[str, JsonValue]:
    """Returns what a job used, in whole units, rounded up: no float comes near money."""
    return {
        "cpu_ms": ceil(result.cpu_ms),
        "wall_ms": ceil(result.wall_ms),
        "memory_bytes": result.memory_peak_bytes,
    }


def used_at_most(elapsed_s: float, memory_bytes: int) -> dict[str, JsonValue]:
    """Returns the most that a job can have used which was ended before anything was measured (LAW 4)."""
    elapsed_ms = ceil(elapsed_s * 1_000)
    return {"cpu_ms": elapsed_ms + _STARTUP_CPU_MS, "wall_ms": elapsed_ms, "memory_bytes": memory_bytes}


def outcome_of(
    result: Result,
    files: Sequence[Mapping[str, JsonValue]],
    refused: Mapping[str, str],
    called: Mapping[str, JsonValue],
) -> OutcomeView:
    """Returns the outcome of a job that has ended, by itself or not.

    Args:
        result: What came of it.
        files: Its files that were kept: name, size, digest.
        refused: Its files that were not, with why.
        called: What it has called, by tool: how many calls were done, refused or not answered.
    """
    ok = result.exit_status == 0 and result.killed is None
    code = "" if ok else FAILED if result.killed is None else KILLED
    stored: dict[str, JsonValue] = {
        "content": _content(result, files, refused, called),
        "exit_status": result.exit_status,
        "killed": "" if result.killed is None else result.killed.sentence,
        "used": used_of(result),
        "files": [dict(file) for file in files],
        "refused": dict(refused),
        "called": dict(called),
        "receipt": receipt_json(result.receipt),
    }
    return _view(code, "known", stored)


def stopped(code: str, content: str, used: Mapping[str, JsonValue], receipt: Receipt) -> OutcomeView:
    """Returns the outcome of a job that was ended from outside: what it can have used counts, and it may be tried again."""
    stored: dict[str, JsonValue] = {"content": content, "used": dict(used), "receipt": receipt_json(receipt)}
    return _view(code, "known", stored, retryable=True)


def nothing(code: str, content: str, *, retryable: bool = False) -> OutcomeView:
    """Returns the outcome of code that never ran."""
    stored: dict[str, JsonValue] = {"content": content}
    return _view(code, "nothing", stored, retryable=retryable)


def receipt_json(receipt: Receipt) -> dict[str, JsonValue]:
    """Returns the receipt of layers as JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(receipt).items()}


def _view(code: str, cost: str, stored: Mapping[str, JsonValue], *, retryable: bool = False) -> OutcomeView:
    return OutcomeView(
        ok=not code,
        error_code=code,
        retryable=retryable,
        retry_after_ms=None,
        cost_class="known" if cost == "known" else "nothing",
        provider_request_id="",
        simulated=False,
        result=orjson.dumps(dict(stored)),
    )


def _content(
    result: Result,
    files: Sequence[Mapping[str, JsonValue]],
    refused: Mapping[str, str],
    called: Mapping[str, JsonValue],
) -> str:
    used = f"{ceil(result.wall_ms)} ms, {ceil(result.cpu_ms)} ms of CPU, {-(-result.memory_peak_bytes // _MIB)} MiB"
    lines = [f"exit status {result.exit_status} ({used})"]
    if result.killed is not None:
        lines.append(f"It was ended: {result.killed.sentence}")
    lines += [f"It ran out of {what.value}." for what in result.exhausted if result.killed is None]
    if result.raised is not None and result.raised.line:
        lines.append(f"line {result.raised.line}: {result.raised.kind}: {result.raised.message}")
    for name, output in (("stdout", result.stdout), ("stderr", result.stderr)):
        if output:
            lines.append(f"{name}:\n{_cut(printable(output)).rstrip()}")
    # also of code that was ended early: whoever runs it again has to know what it has done already
    for tool, counts in called.items():
        assert isinstance(counts, Mapping)  # see `outcome_of`
        lines.append(f"called {tool}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    if result.cut_off:
        lines.append(f"its connection to the run was closed: {result.cut_off}")
    lines += [f"file {file['name']} ({file['size_bytes']} bytes)" for file in files]
    lines += [f"not kept: {name} ({why})" for name, why in refused.items()]
    return "\n".join(lines)


def _cut(text: str) -> str:
    """Keeps beginning and end of a long text: what a program says last is often why it failed."""
    if len(text) <= _SHOWN_MAX:
        return text
    half = _SHOWN_MAX // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
