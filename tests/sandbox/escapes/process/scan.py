"""Looks for any process but its own."""

import os

own = {os.getpid(), os.getpid() + 1}
for pid in range(2, 70_000):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        continue
    except PermissionError:
        pass
    if pid not in own:
        raise SystemExit(42)
