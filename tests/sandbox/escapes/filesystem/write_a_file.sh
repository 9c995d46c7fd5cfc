# Writes to a file of the host that everybody may write.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
echo changed > "$path" && exit 42
