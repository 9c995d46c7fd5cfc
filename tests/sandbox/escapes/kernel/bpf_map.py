"""Makes a map of BPF."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(321 if X86 else 280, 0, (ctypes.c_uint32 * 18)(2, 4, 8, 1), 72)
raise SystemExit(42 if result >= 0 else 1)
