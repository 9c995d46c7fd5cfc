"""Gives a file to root."""

import os

open("file", "w").close()
os.chown("file", 1, 1)
raise SystemExit(42)
