"""Named places at which a test may kill, freeze, fail or hold up the process, to try what a crash there does.

Nothing happens unless `HOLDFAST_FAILPOINTS` is set when the process starts: a comma-separated list of `name=act@marker`, or
`name:kind=act@marker` for actions of one kind. `marker` is a path; the failpoint does something only while that exists.

- `kill` (SIGKILL to oneself), `stop` (SIGSTOP to oneself), `error` (raises `Unavailable`): the marker is a file, and the first
  process that manages to remove it does this, once.
- `park`: the marker is a folder; everybody who comes by leaves a file in it and waits until the folder is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

from holdfast.errors import ConfigurationInvalid, Unavailable

_ACTS = ("kill", "stop", "error", "park")
_LOOK_S = 0.02


def _parse(text: str) -> dict[str, list[tuple[str, Path]]]:
    points: dict[str, list[tuple[str, Path]]] = {}
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition("=")
        act, _, marker = rest.partition("@")
        if act not in _ACTS or not marker:
            raise ConfigurationInvalid(
                f"HOLDFAST_FAILPOINTS: {part!r} is not name=act@marker", remedy=f"act is one of {', '.join(_ACTS)}"
            )
        points.setdefault(name, []).append((act, Path(marker)))
    return points


_POINTS = _parse(os.environ.get("HOLDFAST_FAILPOINTS", ""))


async def failpoint(name: str, kind: str = "") -> None:
    """Does what is set for that name, or for that name and kind of action, if its marker exists."""
    if not _POINTS:
        return
    for act, marker in (*_POINTS.get(name, ()), *_POINTS.get(f"{name}:{kind}", ())):
        if act == "park":
            await _park(marker)
        else:
            _fire(name, act, marker)


def _fire(name: str, act: str, marker: Path) -> None:
    try:
        marker.unlink()
    except FileNotFoundError:
        return
    if act == "error":
        raise Unavailable(f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if act == "kill" else signal.SIGSTOP)


async def _park(folder: Path) -> None:
    ticket = folder / f"{os.getpid()}.{uuid4()}"
    try:
        ticket.touch()
    except FileNotFoundError:
        return
    try:
        while ticket.exists():  # noqa: ASYNC110 (what it waits for is a file)
            await asyncio.sleep(_LOOK_S)
    finally:
        ticket.unlink(missing_ok=True)
