"""Reads signals from a descriptor."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(289 if X86 else 74, -1, (ctypes.c_uint64 * 1)(0), 8, 0)
raise SystemExit(42 if result >= 0 else 1)
