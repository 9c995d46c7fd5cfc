"""Runs a tool of the tenant's own that is a function of an installed package, in a process of its own for each call.

The process gets nothing of the executor's environment, is bounded, and is killed with all it has started when the call ends, its
time is over, the lease has run out, or the executor dies (see `python_guard.py`). It is no sandbox: tools are installed by whoever
runs the executor, and trusted like it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from activities.tools.invocation import ToolInvocation, ToolResult
from activities.tools.python_host import CONTENT_LENGTH_MAX, FRAME_BYTES_MAX
from holdfast.tools.definition import OwnTool, PythonBinding, ToolForm

_GUARD: Final = Path(__file__).with_name("python_guard.py")
_GUARD_TIMEOUT_S: Final = 10.0
"""How long a guard may take to end what the tool has left behind; who has cut itself loose outlives a guard that is killed before."""
_END_TIMEOUT_S: Final = 2.0

_log = structlog.get_logger(__name__)

Frame = dict[str, Any]  # JSON between the executor and the process


@dataclass(slots=True)
class _Host:
    """The process of one call, by way of its guard."""

    process: asyncio.subprocess.Process

    async def send(self, frame: Frame) -> None:
        assert self.process.stdin is not None  # it was started with pipes
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps(frame).encode() + b"\n")
            await self.process.stdin.drain()

    async def receive(self) -> Frame | None:
        """Returns the next frame, or None if it ended without one, or sent what is none."""
        assert self.process.stdout is not None
        try:
            line = await self.process.stdout.readuntil(b"\n")
            frame = json.loads(line)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            return None
        return frame if isinstance(frame, dict) else None

    async def end(self) -> None:
        """Ends it, and everything that descends from it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), _GUARD_TIMEOUT_S)
        except TimeoutError:
            # something cannot be killed, or the guard was stopped: no tool keeps an executor's slot
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), _END_TIMEOUT_S)


@asynccontextmanager
async def _started(ends_at: float, memory_bytes_max: int) -> AsyncIterator[_Host]:
    """Starts a process in a folder of its own, and leaves nothing of either behind."""
    spec: Frame = {
        "parent_pid": os.getpid(),
        "ends_at": ends_at,
        "memory_bytes": memory_bytes_max,
        "path": [path for path in sys.path if path],
    }
    folder = tempfile.mkdtemp(prefix="holdfast-tool-")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_GUARD),
            json.dumps(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            # INVARIANT (LAW 1): nothing of the executor's; what the call may use comes with the call
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
            start_new_session=True,
            limit=FRAME_BYTES_MAX,
        )
        host = _Host(process)
        try:
            yield host
        finally:
            ending = asyncio.create_task(host.end())
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await ending
                raise
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def run(call: ToolInvocation) -> ToolResult:
    """Runs the call in a process of its own.

    Raises:
        LeaseLost: The lease had run out when the tool wanted to go outside.
    """
    assert isinstance(call.definition, OwnTool)  # dispatch chose this runner by the binding
    form = call.definition.form
    assert isinstance(form.binding, PythonBinding)
    begun = False
    ends_at = _ends_at(call)
    try:
        async with asyncio.timeout(form.timeout_ms / 1000), _started(ends_at, call.memory_bytes_max) as host:
            await host.send(_request(call, form, form.binding))
            while (frame := await host.receive()) is not None and frame.get("kind") == "begin":
                if not begun:
                    await call.outward.begin()
                    call.outward.assert_live()
                    begun = True
                    ends_at = min(ends_at, _ends_at(call))
                await host.send({"ends_at": ends_at})
            _log.info("tool.ended", tool=call.tool, kind=(frame or {}).get("kind", "died"))
            if frame is None and time.monotonic() >= ends_at:
                return _late(call, begun=begun)
            return _result(call, frame or {}, begun=begun)
    except TimeoutError:
        return _late(call, begun=begun)


def _ends_at(call: ToolInvocation) -> float:
    """Returns the end of the lease by the monotonic clock, which all processes of a machine share."""
    return time.monotonic() + call.outward.remaining_ms / 1000


def _request(call: ToolInvocation, form: ToolForm, binding: PythonBinding) -> Frame:
    return {
        "tool": call.tool,
        "function": binding.function,
        "decided": {
            "parameters": dict(form.parameters),
            "external": form.external,
            "idempotent": form.idempotent,
            "reversible": form.reversible,
            "yields": list(form.yields),
        },
        "arguments": call.arguments,
        "tenant": call.tenant,
        "idempotency_key": call.idempotency_key,
        "credential": call.credential,
    }


def _result(call: ToolInvocation, frame: Frame, *, begun: bool) -> ToolResult:
    match frame:
        case {"kind": "done", "content": str(content)}:
            cut = " … (cut)" if frame.get("cut") or len(content) > CONTENT_LENGTH_MAX else ""
            return ToolResult.done(content[:CONTENT_LENGTH_MAX] + cut)
        case {"kind": "refused", "message": str(message)}:
            # the tool's author vouches for it that nothing happened
            return ToolResult.nothing("tool.refused", message, retryable=frame.get("retryable") is True)
        case {"kind": "unreadable", "message": str(message)} if not begun:
            return ToolResult.nothing("tool.arguments_refused", f"{message}; nothing was done")
        case {"kind": "mismatch", "code": "tool.not_installed"} if not begun:
            return ToolResult.nothing("tool.not_installed", f"no executor here has {call.tool} as it was defined")
        case {"kind": "mismatch", "code": "tool.definition_mismatch"} if not begun:
            return ToolResult.nothing(
                "tool.definition_mismatch",
                f"{call.tool} is not the same any more as what was decided on; nothing was done",
            )
        case {"kind": "failed", "error": str(error)}:
            _log.warning("tool.raised", tool=call.tool, error=error[:100], places=frame.get("places"))
            return _not_done(call, "tool.failed", f"{call.tool} failed inside ({error[:100]})", begun=begun)
        case _:
            return _not_done(call, "tool.died", f"{call.tool} ended without an answer", begun=begun)


def _late(call: ToolInvocation, *, begun: bool) -> ToolResult:
    return _not_done(call, "tool.timeout", f"{call.tool} did not end in time", begun=begun, passing=True)


def _not_done(call: ToolInvocation, code: str, content: str, *, begun: bool, passing: bool = False) -> ToolResult:
    if not begun:
        return ToolResult.nothing(code, f"{content}; nothing was done", retryable=passing)
    # LAW 4: it may have happened; under the same key an idempotent one may be tried again
    idempotent = call.definition.is_idempotent(call.arguments)
    return ToolResult.unknown(code, f"{content}; whether it was done is not known", retryable=idempotent)
