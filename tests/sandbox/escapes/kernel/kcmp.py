"""Compares what two processes share."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(312 if X86 else 272, libc.getpid(), libc.getpid(), 1, 0, 0)
raise SystemExit(42 if result >= 0 else 1)
