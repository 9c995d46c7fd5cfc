"""Opens the kernel's log."""

import os

fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
os.close(fd)
raise SystemExit(42)
