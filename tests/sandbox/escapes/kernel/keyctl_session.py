"""Finds its session keyring."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(250 if X86 else 219, 0, -3, 1)
raise SystemExit(42 if result >= 0 else 1)
