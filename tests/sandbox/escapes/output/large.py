"""Leaves a file of 70 MB."""

with open("report", "wb") as file:
    file.write(b"1" * (70 << 20))
raise SystemExit(42)
