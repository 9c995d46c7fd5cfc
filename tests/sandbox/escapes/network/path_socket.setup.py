"""For path_socket: what lies on the host."""

import json
import os
import socket
import sys
import tempfile

with tempfile.TemporaryDirectory(prefix="holdfast-escape-") as folder:
    os.chmod(folder, 0o755)
    path = folder + "/s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o777)
    server.listen()
    print(json.dumps({"path": path}), flush=True)
    sys.stdin.read()
