"""Moves another process to one processor."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.sched_setaffinity(given["pid"], os.sched_getaffinity(0))
raise SystemExit(42)
