"""The first program in a kernel of gVisor's: walks through the layers that are still to come; standard library only."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from sandbox.native import inside, root, zygote

REPORT: Final = "/report"
"""Where a job's process finds the file that it leaves its exception in."""
_ACCOUNT: Final = (inside.INNER_ID,) * 3


def main(text: str) -> NoReturn:
    """Enters the layers, waits for a job, runs it, ends. Never returns."""
    order = json.loads(text)
    if os.getresuid() != _ACCOUNT or os.getresgid() != _ACCOUNT:
        os._exit(71)
    del sys.path[0]  # this module's own place
    sys.path_importer_cache.clear()
    if order["runtime"]["site"]:
        sys.path.append(root.SITE)
    zygote.import_guest(Path(root.GUEST, "holdfast_guest.py").read_text(encoding="utf-8"))
    control = os.dup(0)  # runsc hands over three descriptors, and this is the first
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    report, proc = os.open(REPORT, os.O_RDWR), os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    inside.run(inside.Ends(control, 1, 2, report, proc), order, order["limits"])
