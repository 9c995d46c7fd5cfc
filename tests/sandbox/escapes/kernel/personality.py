"""Switches address randomisation off."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(135 if X86 else 92, 0x0040000)
raise SystemExit(42 if result >= 0 else 1)
