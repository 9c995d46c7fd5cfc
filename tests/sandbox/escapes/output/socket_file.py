"""Leaves a socket as its output."""

import socket

socket.socket(socket.AF_UNIX).bind("report")
raise SystemExit(42)
