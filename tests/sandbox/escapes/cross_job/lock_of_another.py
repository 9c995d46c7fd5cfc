"""Takes a lock on another one's file."""

import json
import sys

given = json.loads(sys.argv[1])
import fcntl

with open(given["path"], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
raise SystemExit(42)
