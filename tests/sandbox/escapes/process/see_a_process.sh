# Sees a process of the host by a null signal.

pid=$(printf %s "$1" | sed 's/.*"pid": \([0-9]*\).*/\1/')
kill -0 "$pid" && exit 42
