"""Stays longer than it may."""

import time

time.sleep(14)
raise SystemExit(42)
