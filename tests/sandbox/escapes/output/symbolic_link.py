"""Leaves a symbolic link as its output."""

import os

os.symlink("/etc/passwd", "report")
raise SystemExit(42)
