"""Changes its timers' slack."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(157 if X86 else 167, 29, 100000, 0, 0, 0)
raise SystemExit(42 if result >= 0 else 1)
