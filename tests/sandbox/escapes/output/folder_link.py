"""Leaves a link in place of a folder."""

import os

os.symlink("..", "out")
raise SystemExit(42)
