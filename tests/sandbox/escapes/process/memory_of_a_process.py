"""Reads another process's memory."""

import json
import sys

given = json.loads(sys.argv[1])

with open(f"/proc/{given['pid']}/mem", "rb"):
    raise SystemExit(42)
