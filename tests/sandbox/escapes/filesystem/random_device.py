"""Makes a pseudo-terminal."""

import os

fd = os.open("/dev/ptmx", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
