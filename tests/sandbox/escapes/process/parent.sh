# Sees which process it was started by.

[ "$PPID" -gt 0 ] && exit 42
