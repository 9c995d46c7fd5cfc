"""Becomes a real-time process."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.sched_setscheduler(0, 1, (ctypes.c_int * 1)(1))
raise SystemExit(42 if result == 0 else 1)
