# Lists a folder of the host.

folder=$(printf %s "$1" | sed 's/.*"folder": "\([^"]*\)".*/\1/')
for name in "$folder"/*; do
    [ "$name" != "$folder/*" ] && exit 42
done
[ -n "$(ls "$folder")" ] && exit 42
