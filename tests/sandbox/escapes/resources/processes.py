"""Forks a hundred processes."""

import os
import signal

children = []
try:
    for _ in range(100):
        if (pid := os.fork()) == 0:
            signal.pause()
        children.append(pid)
finally:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
raise SystemExit(42)
