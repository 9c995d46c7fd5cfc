# Reads a file of the host that everybody may read.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
[ "$(cat "$path")" = "of the host" ] && exit 42
