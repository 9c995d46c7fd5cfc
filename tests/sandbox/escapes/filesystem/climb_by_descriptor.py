"""Climbs out with descriptors of folders."""

import json
import sys

given = json.loads(sys.argv[1])
import os

at = os.open(".", os.O_RDONLY)
for _ in range(40):
    at = os.open("..", os.O_RDONLY, dir_fd=at)
os.close(os.open(given["path"].lstrip("/"), os.O_RDONLY, dir_fd=at))
raise SystemExit(42)
