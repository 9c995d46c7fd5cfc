"""Reads the host's name from its file."""

import os

fd = os.open("/etc/hostname", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
