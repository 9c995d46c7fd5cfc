"""Locks memory that then cannot be swapped."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(149 if X86 else 228, ctypes.create_string_buffer(4096), 4096)
raise SystemExit(42 if result >= 0 else 1)
