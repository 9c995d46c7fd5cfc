"""Binds the root folder into its own."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

import os

os.mkdir("at")
done = libc.mount(b"/", b"at", None, 0x1000, None)
if done == 0:
    libc.umount2(b"at", 2)
raise SystemExit(42 if done == 0 else 1)
