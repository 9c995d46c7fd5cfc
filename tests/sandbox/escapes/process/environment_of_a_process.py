"""Reads another process's environment."""

import json
import sys

given = json.loads(sys.argv[1])

with open(f"/proc/{given['pid']}/environ", "rb") as file:
    raise SystemExit(42 if b"s3cret" in file.read() else 1)
