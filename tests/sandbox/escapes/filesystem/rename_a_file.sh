# Moves a file of the host into its own folder.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
mv "$path" mine && exit 42
