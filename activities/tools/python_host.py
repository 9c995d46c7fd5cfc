"""The process in which one call of a Python tool runs: started for it, with nothing of the executor's, and killed after it.

A line of JSON on stdin is the call; lines of JSON on the channel that was stdout are `begin` (answered with a line), and in
the end one of `done`, `refused`, `failed` and `mismatch`. What a tool itself prints goes nowhere: it may hold secrets.
"""

from __future__ import annotations

import gc
import inspect
import json
import os
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from activities.tools.python_guard import Deadline
    from holdfast.tools.signatures import Marks, Signature

CONTENT_LENGTH_MAX: Final = 200_000
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
_SENTENCE_LENGTH_MAX: Final = 2_000
_PLACES_MAX: Final = 8
_UNTOLD: Final[Mapping[str, type]] = {"description": str, "x-holdfast-personal": bool, "writeOnly": bool}
_PROBLEMS_MAX: Final = 5
_REFUSED: Final = "holdfast_tool_refused"  # what marks the client's exception, of whatever version

Frame = dict[str, Any]  # JSON between this process and the executor


class _Channel:
    """The way to the executor. Nothing that a tool prints can get into it."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), encoding="utf-8")
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDWR)
        for end in (0, 1, 2):
            os.dup2(nothing, end)

    def receive(self) -> Frame:
        """Returns the next frame; without one there is nobody left to work for."""
        line = self._in.readline()
        if not line:
            os._exit(1)
        frame: Frame = json.loads(line)
        return frame

    def send(self, frame: Frame) -> None:
        """Sends a frame."""
        self._out.write(json.dumps(frame, ensure_ascii=True) + "\n")
        self._out.flush()


def _places(error: BaseException) -> list[str]:
    """Returns where an error was raised, without what it says: that may be a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES_MAX:]
    return [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]  # noqa: PTH119 (pathlib is not needed here)


def _load(call: Frame) -> Signature | None:
    from importlib.metadata import entry_points

    from holdfast.tools.signatures import GROUP, Signature

    # INVARIANT (LAW 1): only what is registered under the tool's name with exactly this value is called
    for point in entry_points(group=GROUP, name=call["tool"]):
        if point.value == call["function"]:
            return Signature.of(point.load())
    return None


def _is_as_decided(signature: Signature, decided: Mapping[str, Any]) -> bool:  # JSON of the definition
    """Says whether the function takes what was decided on, and is in nothing worse than its definition says (LAW 7)."""
    marks: Marks = signature.marks
    return (
        _told(taken := signature.schema()) == _told(decided["parameters"])
        and _keeps_marks(taken, decided["parameters"])
        and (decided["external"] or not marks.external)
        and (marks.idempotent or not decided["idempotent"])
        and (marks.reversible or not decided["reversible"])
        and set(marks.yields) <= set(decided["yields"])
    )


def _told(schema: Any) -> Any:  # JSON Schema
    """Returns a schema without its descriptions and without what is personal, which say nothing of what is taken."""
    if isinstance(schema, dict):
        return {
            key: {name: _told(member) for name, member in value.items()} if key == "properties" else _told(value)
            for key, value in schema.items()
            if not isinstance(value, _UNTOLD.get(key, ()))
        }
    return [_told(member) for member in schema] if isinstance(schema, list) else schema


def _keeps_marks(taken: Any, decided: Any) -> bool:  # JSON Schemas
    """Says whether all that the function says is personal was so in its definition; that may say more."""
    from holdfast_verdict.sealing import personal_in

    kept = personal_in(decided)
    return all(any(path[: len(each)] == each for each in kept) for path in personal_in(taken))


def _content(value: object) -> tuple[str, bool]:
    """Returns a result as text, and whether it was cut."""
    if not isinstance(value, str):
        from pydantic_core import to_json

        value = to_json(value, inf_nan_mode="strings").decode()
    return (value, False) if len(value) <= CONTENT_LENGTH_MAX else (value[:CONTENT_LENGTH_MAX], True)


class _Begin:
    """Asks the executor once whether the call may go outside, whoever of the tool's threads comes first."""

    def __init__(self, channel: _Channel, deadline: Deadline) -> None:
        self._channel = channel
        self._deadline = deadline
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if self._done:
                return
            self._channel.send({"kind": "begin"})
            self._deadline.set(self._channel.receive()["ends_at"])
            self._done = True


def _run(call: Frame, begin: _Begin) -> Frame:
    from pydantic import ValidationError

    signature = _load(call)
    if signature is None:
        return {"kind": "mismatch", "code": "tool.not_installed"}
    if not _is_as_decided(signature, call["decided"]):
        return {"kind": "mismatch", "code": "tool.definition_mismatch"}
    try:
        values = signature.read(call["arguments"])
    except ValidationError as error:
        return {"kind": "unreadable", "message": _problems(error)}
    gc.enable()
    if signature.call_type is None:
        begin()
        result = signature.function(**values)
    else:
        said = {name: call[name] for name in ("tenant", "idempotency_key", "credential")}
        result = signature.function(signature.call_type(**said, asking=begin), **values)
    if inspect.isawaitable(result):
        import asyncio

        async def wait() -> Any:  # whatever the tool returns
            return await result

        result = asyncio.run(wait())
    content, cut = _content(result)
    return {"kind": "done", "content": content, "cut": cut}


def _problems(error: Any) -> str:  # pydantic's ValidationError; this module is imported before pydantic is
    found = error.errors(include_url=False, include_input=False, include_context=False)[:_PROBLEMS_MAX]
    return "; ".join(f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}" for one in found)[:_SENTENCE_LENGTH_MAX]


def main(deadline: Deadline) -> NoReturn:
    """Runs the one call."""
    channel = _Channel()
    own = os.getpid()
    try:
        frame = _run(channel.receive(), _Begin(channel, deadline))
    except BaseException as error:  # noqa: BLE001 (whatever a tool raises, SystemExit too, is its answer)
        if getattr(error, _REFUSED, False):
            message = str(error)[:_SENTENCE_LENGTH_MAX]
            frame = {"kind": "refused", "message": message, "retryable": getattr(error, "retryable", False) is True}
        else:
            frame = {"kind": "failed", "error": type(error).__name__, "places": _places(error)}
    if os.getpid() == own:  # what the tool has forked, and let run on to here, answers nothing
        channel.send(frame)
    os._exit(0)
