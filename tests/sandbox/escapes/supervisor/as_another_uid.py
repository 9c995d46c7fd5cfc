"""Connects as another uid."""

import json
import os
import socket
import struct
import sys

told = json.loads(sys.argv[1])

os.setgid(65_534)
os.setuid(65_534)
link = socket.socket(1, 1, 0)
link.connect(told["socket"])
body = json.dumps({"token": "", "kind": "tool", "name": "a", "arguments": {}}).encode()
link.sendall(struct.pack("!I", len(body)) + body)
raise SystemExit(42 if link.recv(4) else 1)
