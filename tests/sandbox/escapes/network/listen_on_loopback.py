"""Listens on loopback and connects to itself."""

import socket

with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 3).close()
raise SystemExit(42)
