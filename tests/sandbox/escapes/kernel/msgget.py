"""Makes a System V message queue."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(68 if X86 else 186, 0, 0o600)
if result >= 0:
    libc.msgctl(result, 0, None)
raise SystemExit(42 if result >= 0 else 1)
