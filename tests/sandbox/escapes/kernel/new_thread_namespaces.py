"""Makes a child in new namespaces by clone."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

import os

result = libc.syscall(56 if X86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
if result == 0:
    os._exit(0)
raise SystemExit(42 if result > 0 else 1)
