"""Makes a listener for everybody's file events."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(300 if X86 else 262, 0, 0)
raise SystemExit(42 if result >= 0 else 1)
