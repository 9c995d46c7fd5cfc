"""Makes a ruleset of Landlock."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(444 if X86 else 444, (ctypes.c_uint64 * 1)(1), 8, 0)
raise SystemExit(42 if result >= 0 else 1)
