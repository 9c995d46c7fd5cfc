# Removes a file of the host.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
rm "$path" && exit 42
