"""Opens a file of the host by its handle."""

import json
import sys

given = json.loads(sys.argv[1])
import ctypes
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"

handle = ctypes.create_string_buffer(136)
ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
mount = ctypes.c_int()
if libc.name_to_handle_at(-100, given["path"].encode(), handle, ctypes.byref(mount), 0) != 0:
    raise SystemExit(1)
at = os.open(given["folder"], os.O_RDONLY)
raise SystemExit(42 if libc.open_by_handle_at(at, handle, 0) >= 0 else 1)
