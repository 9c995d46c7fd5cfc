"""Reads the size of the kernel's log."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(103 if X86 else 116, 10, 0, 0)
raise SystemExit(42 if result >= 0 else 1)
