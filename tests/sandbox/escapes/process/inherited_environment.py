"""Finds a variable of its parent's environment."""

import os

raise SystemExit(42 if set(os.environ) - {"HOME", "TMPDIR", "PATH", "LANG", "TZ", "LC_CTYPE"} else 1)
