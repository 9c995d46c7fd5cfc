"""Removes a file of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.unlink(given["path"])
raise SystemExit(42)
