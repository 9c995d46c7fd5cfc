# Looks for any process of the host in /proc.

for folder in /proc/[0-9]*; do
    [ -r "$folder/status" ] && exit 42
done
exit 1
