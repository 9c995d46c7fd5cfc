"""Makes System V semaphores."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(64 if X86 else 190, 0, 1, 0o600)
if result >= 0:
    libc.semctl(result, 0, 0)
raise SystemExit(42 if result >= 0 else 1)
