"""Runs a tool of the tenant's own that is a function of an installed package, in a process of its own for each call.

The process gets nothing of the executor's environment, is bounded, and is killed with all it has started when the call ends, its
time is over or the lease has run out. It is no sandbox: tools are installed by whoever runs the executor, and trusted like it.
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]  # it ships no types
import structlog

from activities.tools.invocation import ToolInvocation, ToolResult
from activities.tools.python_host import CONTENT_LENGTH_MAX, FRAME_BYTES_MAX
from holdfast.tools.definition import OwnTool, PythonBinding

MEMORY_BYTES_MAX: Final = 2 * 1024**3
_HOST: Final = Path(__file__).with_name("python_host.py")
_PRINTED_BYTES_MAX: Final = 1024 * 1024
_END_TIMEOUT_S: Final = 2.0

_log = structlog.get_logger(__name__)

Frame = dict[str, Any]  # JSON between the executor and the process


@dataclass(slots=True)
class _Host:
    """The process of one call."""

    process: asyncio.subprocess.Process
    printed_bytes: int = 0

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

    async def swallow(self) -> None:
        """Reads what the tool prints, so that it never waits, and keeps none of it: it may hold secrets."""
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(65_536):
            self.printed_bytes += len(chunk)
            if self.printed_bytes > _PRINTED_BYTES_MAX:
                break  # from here on it waits, until the call's time is over

    async def end(self) -> None:
        """Kills it, and everything that descends from it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            for _ in range(3):  # what is started while others are killed is found by the next look
                children = parent.children(recursive=True)
                for child in children:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                if not children:
                    break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # what got away and holds a pipe open would be waited for without end: no tool keeps an executor's slot
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), _END_TIMEOUT_S)


@asynccontextmanager
async def _started() -> AsyncIterator[_Host]:
    """Starts a process in a folder of its own, and leaves nothing of either behind."""
    folder = tempfile.mkdtemp(prefix="holdfast-tool-")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_HOST),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            # INVARIANT (LAW 1): nothing of the executor's; what the call may use comes with the call
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
            start_new_session=True,
            limit=FRAME_BYTES_MAX,
        )
        host = _Host(process)
        reading = asyncio.create_task(host.swallow())
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
                reading.cancel()
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
    try:
        async with asyncio.timeout(form.timeout_ms / 1000), _started() as host:
            await host.send(_request(call, form.binding, dict(form.parameters)))
            while (frame := await host.receive()) is not None and frame.get("kind") == "begin":
                if not begun:
                    await call.outward.begin()
                    call.outward.assert_live()
                    begun = True
                await host.send({"remaining_ms": max(min(call.outward.remaining_ms, form.timeout_ms), 1)})
            _log.info("tool.ended", tool=call.tool, kind=(frame or {}).get("kind", "died"), printed=host.printed_bytes)
            return _result(call, form.idempotent, frame or {}, begun=begun)
    except TimeoutError:
        return _unknown_or_nothing(
            "tool.timeout", f"{call.tool} did not end in time", form.idempotent, begun=begun, passing=True
        )


def _request(call: ToolInvocation, binding: PythonBinding, parameters: dict[str, Any]) -> Frame:
    return {
        "tool": call.tool,
        "function": binding.function,
        "parameters": parameters,
        "arguments": call.arguments,
        "tenant": call.tenant,
        "idempotency_key": call.idempotency_key,
        "credential": call.credential,
        "path": [path for path in sys.path if path],
        "parent_pid": os.getpid(),
        "memory_bytes": MEMORY_BYTES_MAX,
    }


def _result(call: ToolInvocation, idempotent: bool, frame: Frame, *, begun: bool) -> ToolResult:
    match frame:
        case {"kind": "done", "content": str(content)}:
            cut = " … (cut)" if frame.get("cut") or len(content) > CONTENT_LENGTH_MAX else ""
            return ToolResult.done(content[:CONTENT_LENGTH_MAX] + cut)
        case {"kind": "refused", "message": str(message)}:
            # the tool's author vouches for it that nothing happened
            return ToolResult.nothing("tool.refused", message, retryable=frame.get("retryable") is True)
        case {"kind": "mismatch", "code": "tool.not_installed"} if not begun:
            return ToolResult.nothing("tool.not_installed", f"no executor here has {call.tool} as it was defined")
        case {"kind": "mismatch", "code": "tool.definition_mismatch"} if not begun:
            return ToolResult.nothing(
                "tool.definition_mismatch", f"{call.tool} takes other arguments by now than those that were decided on"
            )
        case {"kind": "failed", "error": str(error)}:
            _log.warning("tool.raised", tool=call.tool, error=error[:100], places=frame.get("places"))
            return _unknown_or_nothing(
                "tool.failed", f"{call.tool} failed inside ({error[:100]})", idempotent, begun=begun
            )
        case _:
            return _unknown_or_nothing("tool.died", f"{call.tool} ended without an answer", idempotent, begun=begun)


def _unknown_or_nothing(
    code: str,
    content: str,
    idempotent: bool,
    *,
    begun: bool,
    passing: bool = False,
) -> ToolResult:
    if not begun:
        return ToolResult.nothing(code, f"{content}; nothing was done", retryable=passing)
    # LAW 4: it may have happened; under the same key an idempotent one may be tried again
    return ToolResult.unknown(code, f"{content}; whether it was done is not known", retryable=idempotent)
