"""Counts events of the kernel."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(298 if X86 else 241, (ctypes.c_uint64 * 16)(1 | (128 << 32), 0), 0, -1, -1, 0)
raise SystemExit(42 if result >= 0 else 1)
