"""Changes another process's priority."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.setpriority(os.PRIO_PROCESS, given["pid"], 5)
raise SystemExit(42)
