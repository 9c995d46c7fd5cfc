"""Leaves a block device as its output."""

import os
import stat

os.mknod("report", 0o600 | stat.S_IFBLK, os.makedev(7, 99))
raise SystemExit(42)
