"""Reads which session another process is in."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.getsid(given["pid"])
raise SystemExit(42)
