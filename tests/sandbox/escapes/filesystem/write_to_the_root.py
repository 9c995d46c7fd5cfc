"""Makes a file in the root folder."""

import os

path = f"/holdfast-escape-{os.getpid()}"
os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
os.unlink(path)
raise SystemExit(42)
