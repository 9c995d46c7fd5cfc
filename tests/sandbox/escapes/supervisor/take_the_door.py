"""Puts a socket of its own where a supervisor's would be."""

import os
import socket
import tempfile

folder = "/job/tmp" if os.path.isdir("/job/tmp") else tempfile.mkdtemp()
listener = socket.socket(1, 1, 0)
listener.bind(f"{folder}/door")
listener.listen(1)
os.unlink(f"{folder}/door")
raise SystemExit(42)
