"""Uses 480 MB in several processes, each of them small."""

import os

children = []
for _ in range(6):
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        held = b"1" * (80 << 20)
        os.write(write, b"1")
        import time

        time.sleep(4)
        os._exit(0)
    os.close(write)
    children.append(read)
raise SystemExit(42 if all(os.read(read, 1) for read in children) else 1)
