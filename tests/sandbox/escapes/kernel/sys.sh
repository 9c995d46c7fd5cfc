# Lists the kernel's objects.

for name in /sys/*; do
    [ "$name" != "/sys/*" ] && exit 42
done
[ -n "$(ls /sys)" ] && exit 42
