"""Puts a key into a keyring, which outlives it."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(248 if X86 else 217, b"user", b"holdfast-escape", b"x", 1, -2)
if result >= 0:
    libc.syscall(250 if X86 else 219, 9, result, -2)
raise SystemExit(42 if result >= 0 else 1)
