"""What bubblewrap starts: takes what it was left, and walks through the layers that are still to come; standard library only."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from sandbox.native import inside, root, zygote

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
    inside.run(inside.Ends(inside.CONTROL, 1, 2, order["report"], order["proc"]), order, order["limits"])
