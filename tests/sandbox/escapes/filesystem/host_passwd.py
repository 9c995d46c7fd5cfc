"""Reads a backup of the groups."""

import os

fd = os.open("/etc/group-", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
