# Reads a file of the host through a symbolic link of its own.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
cp -s "$path" link && [ "$(cat link)" = "of the host" ] && exit 42
