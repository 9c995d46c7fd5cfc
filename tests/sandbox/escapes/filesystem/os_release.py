"""Reads which system the host runs."""

import os

fd = os.open("/etc/os-release", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
