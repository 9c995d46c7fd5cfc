"""Starts a hundred threads."""

import os
import threading

stop = threading.Event()
threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(100)]
try:
    for thread in threads:
        thread.start()
except RuntimeError:
    os._exit(1)
os._exit(42)
