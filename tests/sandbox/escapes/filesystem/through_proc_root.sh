# Reads a file of the host through a link of /proc.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
[ "$(cat "/proc/self/root$path")" = "of the host" ] && exit 42
