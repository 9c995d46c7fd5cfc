"""Reads which file systems are mounted."""

import os

fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
