"""Reads a file of the host that everybody may read."""

import json
import sys

given = json.loads(sys.argv[1])

with open(given["path"]) as file:
    raise SystemExit(42 if file.read() == "of the host" else 1)
