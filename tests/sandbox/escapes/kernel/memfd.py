"""Makes a file in memory that no quota counts."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(319 if X86 else 279, b"x", 0)
raise SystemExit(42 if result >= 0 else 1)
