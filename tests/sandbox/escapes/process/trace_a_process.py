"""Attaches to a process of the host as a debugger."""

import json
import sys

given = json.loads(sys.argv[1])
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

raise SystemExit(42 if libc.ptrace(16, given["pid"], 0, 0) == 0 else 1)
