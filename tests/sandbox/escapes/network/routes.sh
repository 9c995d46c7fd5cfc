# Reads by which routes the host is reached.

grep -q Gateway /proc/net/route && exit 42
