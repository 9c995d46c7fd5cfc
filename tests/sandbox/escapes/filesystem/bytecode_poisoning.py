"""Writes beside Python's own library."""

import os

path = os.path.dirname(os.__file__) + f"/holdfast_escape_{os.getpid()}.py"
with open(path, "w") as file:
    file.write("")
os.unlink(path)
raise SystemExit(42)
