"""Reads the host's memory."""

import os

fd = os.open("/proc/meminfo", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
