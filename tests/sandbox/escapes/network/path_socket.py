"""Connects to a Unix socket in the host's file system, as Docker's is one."""

import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as local:
    local.connect(json.loads(sys.argv[1])["path"])
raise SystemExit(42)
