"""Opens a raw socket."""

import socket

socket.socket(2, 3, 1).close()
raise SystemExit(42)
