"""Sees which process it was forked from."""

import os

raise SystemExit(42 if os.getppid() else 1)
