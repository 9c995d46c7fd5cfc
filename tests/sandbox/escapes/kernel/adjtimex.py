"""Reads the clock's discipline."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(159 if X86 else 171, ctypes.create_string_buffer(208))
raise SystemExit(42 if result >= 0 else 1)
