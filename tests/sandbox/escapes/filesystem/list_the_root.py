"""Lists the root folder."""

import os

raise SystemExit(42 if os.listdir("/") else 1)
