# Reads a file of the host by climbing out of its folder.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
up=../../../../../../../../../../../../../../..
[ "$(cat "$up$path")" = "of the host" ] && exit 42
