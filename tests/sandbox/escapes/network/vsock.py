"""Opens a socket to the hypervisor."""

import socket

socket.socket(40, 1, 0).close()
raise SystemExit(42)
