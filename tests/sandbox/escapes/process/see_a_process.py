"""Sees a process of the host by a null signal."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.kill(given["pid"], 0)
raise SystemExit(42)
