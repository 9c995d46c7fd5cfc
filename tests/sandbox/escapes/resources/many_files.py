"""Makes 6,000 files."""

for number in range(6_000):
    open(f"f{number}", "w").close()
raise SystemExit(42)
