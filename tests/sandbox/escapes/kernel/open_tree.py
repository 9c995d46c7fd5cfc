"""Clones a part of the mount tree."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(428 if X86 else 428, -100, b"/", 1)
raise SystemExit(42 if result >= 0 else 1)
