"""Climbs out of its folder by parent folders."""

import json
import sys

given = json.loads(sys.argv[1])

with open("../" * 40 + given["path"].lstrip("/")) as file:
    raise SystemExit(42 if file.read() == "of the host" else 1)
