"""Asks what filters can do."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(317 if X86 else 277, 2, 0, (ctypes.c_uint32 * 1)(0x7FFF0000))
raise SystemExit(42 if result >= 0 else 1)
