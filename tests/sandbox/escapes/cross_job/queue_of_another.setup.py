"""For queue_of_another: what lies on the host."""

import ctypes
import json
import os
import sys

libc = ctypes.CDLL(None)
key = 0x49000000 + os.getpid()
number = libc.msgget(key, 0o1666)
print(json.dumps({"key": key}), flush=True)
sys.stdin.read()
libc.msgctl(number, 0, None)
