"""Reads its environment from /proc."""

import os

fd = os.open("/proc/self/environ", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
