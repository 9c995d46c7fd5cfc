"""Connects to the host's loopback without Python's socket module."""

import ctypes
import json
import platform
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

port = json.loads(sys.argv[1])["port"]
fd = libc.socket(2, 1, 0)
address = struct.pack("=H", 2) + struct.pack("!H", port) + bytes([127, 0, 0, 1]) + bytes(8)
raise SystemExit(42 if fd >= 0 and libc.connect(fd, address, 16) == 0 else 1)
