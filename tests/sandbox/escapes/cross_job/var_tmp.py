"""Leaves a file for others in /var/tmp."""

import json
import sys

given = json.loads(sys.argv[1])

with open("/var/tmp/" + given["name"], "w") as file:
    file.write("for others")
raise SystemExit(42)
