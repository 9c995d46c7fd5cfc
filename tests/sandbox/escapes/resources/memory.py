"""Uses 400 MB in one process."""

held = bytearray(400 << 20)
held[::4096] = b"1" * len(held[::4096])
raise SystemExit(42)
