"""Connects to the host's loopback from a thread."""

import json
import os
import socket
import sys
import threading


def reach():
    socket.create_connection(("127.0.0.1", json.loads(sys.argv[1])["port"]), 3).close()
    os._exit(42)


thread = threading.Thread(target=reach)
thread.start()
thread.join()
