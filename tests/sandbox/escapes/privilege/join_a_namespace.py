"""Joins the network namespace of another process."""

import json
import sys

given = json.loads(sys.argv[1])
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
import os

fd = os.open(f"/proc/{given['pid']}/ns/net", os.O_RDONLY)
raise SystemExit(42 if libc.setns(fd, 0x40000000) == 0 else 1)
