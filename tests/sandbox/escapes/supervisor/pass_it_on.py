"""Makes a socket that could be handed to others, and listens on it."""

import socket

listener = socket.socket(1, 1, 0)
listener.bind("\0holdfast-pass-it-on")
listener.listen(1)
raise SystemExit(42)
