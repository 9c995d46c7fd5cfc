"""Makes a ring for asynchronous calls."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

result = libc.syscall(425 if X86 else 425, 8, ctypes.create_string_buffer(120))
raise SystemExit(42 if result >= 0 else 1)
