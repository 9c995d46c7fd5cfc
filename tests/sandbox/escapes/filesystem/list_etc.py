"""Lists /etc."""

import os

raise SystemExit(42 if os.listdir("/etc") else 1)
