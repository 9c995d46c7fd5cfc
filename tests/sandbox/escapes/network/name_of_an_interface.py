"""Lists the host's network interfaces."""

import socket

raise SystemExit(42 if socket.if_nameindex() else 1)
