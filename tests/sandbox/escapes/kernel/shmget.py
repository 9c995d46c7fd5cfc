"""Makes shared memory that outlives it."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(29 if X86 else 194, 0, 4096, 0o600)
if result >= 0:
    libc.shmctl(result, 0, None)
raise SystemExit(42 if result >= 0 else 1)
