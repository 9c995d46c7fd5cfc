"""Reads its own address layout."""

import os

fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
