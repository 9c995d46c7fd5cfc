"""Writes into a file of the host that everybody may write."""

import json
import sys

given = json.loads(sys.argv[1])

with open(given["path"], "r+") as file:
    file.write("by a job")
raise SystemExit(42)
