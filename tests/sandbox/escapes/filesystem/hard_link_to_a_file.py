"""Makes a hard link to a file of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os

os.link(given["path"], given["folder"] + "/again")
raise SystemExit(42)
