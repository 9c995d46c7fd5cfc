"""Lists a folder of the host."""

import json
import sys

given = json.loads(sys.argv[1])
import os

raise SystemExit(42 if "secret" in os.listdir(given["folder"]) else 1)
