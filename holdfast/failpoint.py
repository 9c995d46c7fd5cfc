"""Named places at which a test may kill, freeze or delay the process, to try what a crash there does.

Nothing happens unless `HOLDFAST_FAILPOINTS` is set when the process starts: a comma-separated list of `name=act@marker`.
`act` is `kill` (SIGKILL to oneself), `stop` (SIGSTOP to oneself) or `error` (raises `Unavailable`); `marker` is the path
of a file. A failpoint fires once: the first process that manages to remove the marker file fires it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from holdfast.errors import ConfigurationInvalid, Unavailable

_ACTS = ("kill", "stop", "error")


def _parse(text: str) -> dict[str, tuple[str, Path]]:
    points: dict[str, tuple[str, Path]] = {}
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition("=")
        act, _, marker = rest.partition("@")
        if act not in _ACTS or not marker:
            raise ConfigurationInvalid(
                f"HOLDFAST_FAILPOINTS: {part!r} is not name=act@marker", remedy=f"act is one of {', '.join(_ACTS)}"
            )
        points[name] = (act, Path(marker))
    return points


_POINTS = _parse(os.environ.get("HOLDFAST_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Fires the failpoint of that name if one is set and its marker file is still there."""
    point = _POINTS.get(name)
    if point is None:
        return
    act, marker = point
    try:
        marker.unlink()
    except FileNotFoundError:
        return
    if act == "error":
        raise Unavailable(f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if act == "kill" else signal.SIGSTOP)
