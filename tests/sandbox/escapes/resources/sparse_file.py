"""Makes a file that claims a gigabyte."""

with open("file", "wb") as file:
    file.truncate(1 << 30)
raise SystemExit(42)
