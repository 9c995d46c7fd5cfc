"""Writes 100 MB."""

with open("file", "wb") as file:
    for _ in range(100):
        file.write(b"1" * (1 << 20))
        file.flush()
raise SystemExit(42)
