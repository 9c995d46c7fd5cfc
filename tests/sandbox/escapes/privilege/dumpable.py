"""Makes itself traceable."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.prctl(4, 1, 0, 0, 0)
raise SystemExit(42 if result == 0 else 1)
