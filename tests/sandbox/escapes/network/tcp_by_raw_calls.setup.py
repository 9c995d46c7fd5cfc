"""For tcp_by_raw_calls: what lies on the host."""

import json
import socket
import sys

server = socket.create_server(("127.0.0.1", 0))
print(json.dumps({"port": server.getsockname()[1]}), flush=True)
sys.stdin.read()
