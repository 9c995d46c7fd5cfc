"""The process in which one call of a Python tool runs: started for it, with nothing of the executor's, and killed after it.

The executor starts this file by its path in an isolated interpreter. A line of JSON on stdin is the call; lines of JSON on
the channel that was stdout are `begin` (answered with a line), and in the end one of `done`, `refused`, `failed` and
`mismatch`. What a tool itself prints goes elsewhere.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any, Final, TextIO

CONTENT_LENGTH_MAX: Final = 200_000
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
_SENTENCE_LENGTH_MAX: Final = 2_000
_PLACES_MAX: Final = 8
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

Frame = dict[str, Any]  # JSON between this process and the executor


class _Channel:
    """The way to the executor. Nothing that a tool prints can get into it."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), encoding="utf-8")
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

    def receive(self) -> Frame:
        """Returns the next frame; without one there is nobody left to work for."""
        line = self._in.readline()
        if not line:
            os._exit(1)
        frame: Frame = json.loads(line)
        return frame

    def send(self, frame: Frame) -> None:
        """Sends a frame."""
        _write(self._out, frame)


def _write(out: TextIO, frame: Frame) -> None:
    out.write(json.dumps(frame, ensure_ascii=True) + "\n")
    out.flush()


def _bind_to(parent_pid: int, memory_bytes: int) -> None:
    """Ties this process's life and means: it dies with the executor, finds its lost children, and is bounded."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # a grandchild whose parent has ended becomes this process's child, so that the executor finds and kills it
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 256 * 1024 * 1024),
        (resource.RLIMIT_NOFILE, 512),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def _places(error: BaseException) -> list[str]:
    """Returns where an error was raised, without what it says: that may be a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES_MAX:]
    return [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]  # noqa: PTH119 (pathlib is not needed here)


def _load(call: Frame) -> Any:  # a Signature; its module is imported only once this process is bound
    from importlib.metadata import entry_points

    from holdfast.tools.signatures import GROUP, Signature

    # INVARIANT (LAW 1): only what is registered under the tool's name with exactly this value is called
    for point in entry_points(group=GROUP, name=call["tool"]):
        if point.value == call["function"]:
            return Signature.of(point.load())
    return None


def _told(schema: Any) -> Any:  # JSON Schema
    """Returns a schema without its descriptions, which say nothing of what is taken."""
    if isinstance(schema, dict):
        return {
            key: {name: _told(member) for name, member in value.items()} if key == "properties" else _told(value)
            for key, value in schema.items()
            if key != "description" or not isinstance(value, str)
        }
    return [_told(member) for member in schema] if isinstance(schema, list) else schema


def _content(value: object) -> tuple[str, bool]:
    """Returns a result as text, and whether it was cut."""
    if not isinstance(value, str):
        from pydantic_core import to_json

        value = to_json(value, inf_nan_mode="strings").decode()
    return (value, False) if len(value) <= CONTENT_LENGTH_MAX else (value[:CONTENT_LENGTH_MAX], True)


def _run(channel: _Channel, call: Frame) -> Frame:
    signature = _load(call)
    if signature is None:
        return {"kind": "mismatch", "code": "tool.not_installed"}
    if _told(signature.schema()) != _told(call["parameters"]):
        return {"kind": "mismatch", "code": "tool.definition_mismatch"}

    def ask() -> None:
        channel.send({"kind": "begin"})
        # should the executor be frozen when the lease ends, the kernel ends this process all the same
        signal.setitimer(signal.ITIMER_REAL, channel.receive()["remaining_ms"] / 1000)

    values = signature.read(call["arguments"])
    if signature.call_type is None:
        ask()
        result = signature.function(**values)
    else:
        said = {name: call[name] for name in ("tenant", "idempotency_key", "credential")}
        result = signature.function(signature.call_type(**said, asking=ask), **values)
    if inspect.isawaitable(result):
        import asyncio

        async def wait() -> Any:  # whatever the tool returns
            return await result

        result = asyncio.run(wait())
    content, cut = _content(result)
    return {"kind": "done", "content": content, "cut": cut}


def main() -> None:
    """Runs the one call."""
    channel = _Channel()
    call = channel.receive()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _bind_to(call["parent_pid"], call["memory_bytes"])
    sys.path += [path for path in call["path"] if path not in sys.path]
    try:
        frame = _run(channel, call)
    except BaseException as error:  # noqa: BLE001 (whatever a tool raises, SystemExit too, is its answer)
        refused = type(error).__name__ == "ToolRefused" and hasattr(error, "retryable")
        if refused:
            message = str(error)[:_SENTENCE_LENGTH_MAX]
            frame = {"kind": "refused", "message": message, "retryable": bool(error.retryable)}  # type: ignore[attr-defined]  # just asked
        else:
            frame = {"kind": "failed", "error": type(error).__name__, "places": _places(error)}
    channel.send(frame)
    # the executor kills this process, and before it what it has started: so it must still be there
    signal.pause()


if __name__ == "__main__":
    main()
