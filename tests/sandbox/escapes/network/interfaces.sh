# Reads which network interfaces there are.

grep -q : /proc/net/dev && exit 42
