# Lists /etc.

for name in /etc/*; do
    [ "$name" != "/etc/*" ] && exit 42
done
[ -n "$(ls /etc)" ] && exit 42
