"""Finds shared memory that another one made."""

import json
import sys

given = json.loads(sys.argv[1])
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

raise SystemExit(42 if libc.shmget(given["key"], 0, 0) >= 0 else 1)
