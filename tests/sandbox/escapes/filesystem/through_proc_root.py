"""Reads a file of the host through a process's root."""

import json
import sys

given = json.loads(sys.argv[1])

with open("/proc/self/root" + given["path"]) as file:
    raise SystemExit(42 if file.read() == "of the host" else 1)
