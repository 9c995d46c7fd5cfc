"""Renames a file of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.rename(given["path"], given["path"] + "-gone")
raise SystemExit(42)
