"""Reads from sysfs."""

import os

fd = os.open("/sys/kernel/notes", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
