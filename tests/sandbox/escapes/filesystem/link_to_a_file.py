"""Follows a symbolic link to a file of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.symlink(given["path"], "link")
with open("link") as file:
    raise SystemExit(42 if file.read() == "of the host" else 1)
