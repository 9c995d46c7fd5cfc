"""Prints 4 MB."""

import os

for _ in range(64):
    os.write(1, b"x" * 65_536)
raise SystemExit(42)
