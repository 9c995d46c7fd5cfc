"""Finds somebody in its parent's process group."""

import os

os.killpg(os.getpgid(os.getppid()) or 2**30, 0)
raise SystemExit(42)
