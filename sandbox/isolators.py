"""Other programs that isolate, where they are installed: which there are, and whether they are new enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

BUBBLEWRAP: Final = (0, 12)
"""Older ones can be led out of their mounts (CVE-2026-87766)."""
GVISOR: Final = (20261005, 0)
"""The first that gVisor's release policy promises repairs of what leads out of a sandbox; older ones get none."""
_VERSIONS: Final = (re.compile(r"(\d{8})\.(\d+)"), re.compile(r"(\d+)\.(\d+)"))  # a date, as gVisor counts; any other
_ASKED_S: Final = 10


@dataclass(frozen=True, slots=True)
class Isolator:
    """One such program.

    Attributes:
        name: Its name.
        path: Where it is; empty if it is not installed.
        version: What it says of itself.
        usable: Whether it is new enough.
        words: The same in words.
    """

    name: str
    path: str
    version: str
    usable: bool
    words: str


def look(name: str, least: tuple[int, int] | None = None) -> Isolator:
    """Looks for one.

    Args:
        name: Of the program.
        least: The oldest version that could be used.
    """
    path = shutil.which(name)
    if path is None:
        return Isolator(name, "", "", False, f"{name} is not installed")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_ASKED_S, check=False)  # noqa: S603 (found on PATH)
        said = (done.stdout or done.stderr).strip().partition("\n")[0][:80]
    except (OSError, subprocess.SubprocessError) as error:
        return Isolator(name, path, "", False, f"{name} does not say its version: {error}")
    version = next((found for kind in _VERSIONS if (found := kind.search(said))), None)
    if least is not None and (version is None or (int(version[1]), int(version[2])) < least):
        wanted = ".".join(map(str, least))
        return Isolator(name, path, said, False, f"{said or name} is older than {wanted}")
    return Isolator(name, path, said, True, f"{said or name} is installed")
