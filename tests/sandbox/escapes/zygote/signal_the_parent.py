"""Signals the process that it was forked from."""

import os

os.kill(os.getppid() or 2**30, 0)
raise SystemExit(42)
