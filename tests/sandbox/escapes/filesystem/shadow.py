"""Reads the passwords of accounts."""

import os

fd = os.open("/etc/shadow", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
