"""Makes a POSIX message queue."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(240 if X86 else 180, b"holdfast-escape-%d" % libc.getpid(), 0o102, 0o600, None)
if result >= 0:
    libc.syscall(241 if X86 else 181, b"holdfast-escape-%d" % libc.getpid())
raise SystemExit(42 if result >= 0 else 1)
