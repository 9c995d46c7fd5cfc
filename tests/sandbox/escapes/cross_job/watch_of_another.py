"""Watches another one's files."""

import json
import sys

given = json.loads(sys.argv[1])
import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

fd = libc.inotify_init()
raise SystemExit(42 if fd >= 0 and libc.inotify_add_watch(fd, given["folder"].encode(), 2) >= 0 else 1)
