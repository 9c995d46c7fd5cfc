"""Writes into descriptors that its parent left open."""

import os

for fd in range(3, 256):
    try:
        os.set_blocking(fd, False)
    except OSError:
        continue
    raise SystemExit(42)
