"""Writes 100 MB where temporary files go, in several files."""

import tempfile

with tempfile.TemporaryDirectory() as folder:
    for number in range(10):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(b"1" * (10 << 20))
raise SystemExit(42)
