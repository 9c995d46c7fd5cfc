"""Leaves a file with an attribute."""

import os

open("a", "w").close()
os.setxattr("a", "user.x", b"1")
raise SystemExit(42)
