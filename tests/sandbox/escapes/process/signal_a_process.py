"""Ends a process of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os
import signal

os.kill(given["pid"], signal.SIGTERM)
raise SystemExit(42)
