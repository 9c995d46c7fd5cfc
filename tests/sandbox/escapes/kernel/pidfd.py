"""Makes a handle of itself."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(434 if X86 else 434, libc.getpid(), 0)
raise SystemExit(42 if result >= 0 else 1)
