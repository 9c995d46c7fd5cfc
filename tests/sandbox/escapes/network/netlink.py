"""Opens a netlink socket, with which routes and interfaces are read."""

import socket

socket.socket(16, 3, 0).close()
raise SystemExit(42)
