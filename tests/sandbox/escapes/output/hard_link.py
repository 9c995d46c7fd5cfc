"""Leaves a second name of a file as its output."""

import os

open("a", "w").close()
os.link("a", "b")
raise SystemExit(42)
