"""Names the host anew, with its own name."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.sethostname(*(lambda n: (n, len(n)))(__import__("os").uname().nodename.encode()))
raise SystemExit(42 if result == 0 else 1)
