"""Opens a packet socket, which sees all traffic."""

import socket

socket.socket(17, 3, 768).close()
raise SystemExit(42)
