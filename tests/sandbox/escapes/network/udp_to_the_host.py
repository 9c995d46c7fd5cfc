"""Sends a datagram to the host and gets its answer."""

import json
import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(3)
    udp.sendto(b"hello", ("127.0.0.1", json.loads(sys.argv[1])["port"]))
    raise SystemExit(42 if udp.recv(10) == b"hello" else 1)
