"""Uses 400 MB that are shared and anonymous."""

import mmap

held = mmap.mmap(-1, 400 << 20)
for offset in range(0, len(held), 4096):
    held[offset] = 1
raise SystemExit(42)
