# Lists the root folder.

for name in /*; do
    [ "$name" != "/*" ] && exit 42
done
[ -n "$(ls /)" ] && exit 42
