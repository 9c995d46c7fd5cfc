"""Makes a file that runs as its owner."""

import os

open("program", "w").close()
os.chmod("program", 0o4755)
raise SystemExit(42 if os.stat("program").st_mode & 0o4000 else 1)
