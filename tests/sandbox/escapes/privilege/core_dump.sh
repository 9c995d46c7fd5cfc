# Has its memory written to a file when it crashes.

ulimit -c unlimited && exit 42
