"""Stays longer than it may, and ignores every signal."""

import signal
import time

for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
time.sleep(14)
raise SystemExit(42)
