"""Handles its own page faults, which makes races in the kernel winnable."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(323 if X86 else 282, 1)
raise SystemExit(42 if result >= 0 else 1)
