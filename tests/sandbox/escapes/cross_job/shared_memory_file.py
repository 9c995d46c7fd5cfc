"""Leaves a file in shared memory for others."""

import json
import sys

given = json.loads(sys.argv[1])

with open("/dev/shm/" + given["name"], "w") as file:
    file.write("for others")
raise SystemExit(42)
