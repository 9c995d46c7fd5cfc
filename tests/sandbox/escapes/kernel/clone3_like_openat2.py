"""Opens a file by openat2."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(437 if X86 else 437, -100, b".", (ctypes.c_uint64 * 3)(0, 0, 0), 24)
raise SystemExit(42 if result >= 0 else 1)
