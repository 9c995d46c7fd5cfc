"""Reads another one's file from a folder that everybody shares."""

import json
import sys

given = json.loads(sys.argv[1])
import tempfile

with open(given["path"]) as file:
    raise SystemExit(42 if file.read() else 1)
