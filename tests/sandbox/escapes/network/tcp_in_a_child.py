"""Connects to the host's loopback from a forked process."""

import json
import os
import socket
import sys

if (pid := os.fork()) == 0:
    socket.create_connection(("127.0.0.1", json.loads(sys.argv[1])["port"]), 3).close()
    os._exit(42)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
