"""For shared_memory_of_another: what lies on the host."""

import ctypes
import json
import os
import sys

libc = ctypes.CDLL(None)
key = 0x48000000 + os.getpid()
number = libc.shmget(key, 4096, 0o1666)
print(json.dumps({"key": key}), flush=True)
sys.stdin.read()
libc.shmctl(number, 0, None)
