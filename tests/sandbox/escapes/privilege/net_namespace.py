"""Makes a network namespace."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.unshare(0x40000000)
raise SystemExit(42 if result == 0 else 1)
