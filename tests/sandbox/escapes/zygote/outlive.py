"""Goes on in a process that its parent does not wait for."""

import os
import sys

read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getppid()).encode())
    os._exit(0)
os.close(write)
raise SystemExit(42 if os.read(read, 10) and os.getppid() > 1 else 1)
