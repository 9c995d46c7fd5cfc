"""Makes a device node of the memory's kind."""

import os
import stat

os.mknod("null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
raise SystemExit(42)
