"""Leaves a link to nothing as its output."""

import os

os.symlink("/nowhere", "report")
raise SystemExit(42)
