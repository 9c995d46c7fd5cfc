# Reads the environment of a process of the host.

pid=$(printf %s "$1" | sed 's/.*"pid": \([0-9]*\).*/\1/')
grep -q s3cret "/proc/$pid/environ" && exit 42
