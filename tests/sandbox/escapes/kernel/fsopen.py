"""Opens a file system to be mounted."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(430 if X86 else 430, b"tmpfs", 0)
raise SystemExit(42 if result >= 0 else 1)
