"""Makes a socket of IPv6."""

import socket

socket.socket(socket.AF_INET6).close()
raise SystemExit(42)
