"""Reads the kernel's command line."""

import os

fd = os.open("/proc/cmdline", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
