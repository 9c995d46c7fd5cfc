"""Finds a descriptor that its parent left open."""

import os

for fd in range(3, 1024):
    try:
        os.fstat(fd)
    except OSError:
        continue
    raise SystemExit(42)
