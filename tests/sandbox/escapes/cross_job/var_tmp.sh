# Leaves a file for others in /var/tmp.

name=$(printf %s "$1" | sed 's/.*"name": "\([^"]*\)".*/\1/')
echo for others > "/var/tmp/$name" && exit 42
