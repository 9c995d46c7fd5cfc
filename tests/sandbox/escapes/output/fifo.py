"""Leaves a FIFO as its output, on which a reader waits for ever."""

import os

os.mkfifo("report")
raise SystemExit(42)
