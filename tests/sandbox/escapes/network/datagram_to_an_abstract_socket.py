"""Sends from a socket pair to an abstract socket of the host."""

import json
import socket
import sys

one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b"hello", "\0" + json.loads(sys.argv[1])["name"])
raise SystemExit(42)
