"""Connects to the supervisor of another job."""

import json
import socket
import struct
import sys

told = json.loads(sys.argv[1])

link = socket.socket(1, 1, 0)
link.connect(told["socket"])
body = json.dumps({"token": "", "kind": "tool", "name": "a", "arguments": {}}).encode()
link.sendall(struct.pack("!I", len(body)) + body)
raise SystemExit(42 if link.recv(4) else 1)
