"""Makes a Unix socket that could reach out."""

import socket

socket.socket(1, 1, 0).close()
raise SystemExit(42)
