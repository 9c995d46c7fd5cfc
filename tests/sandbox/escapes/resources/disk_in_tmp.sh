# Writes 100 MB to the temporary folder.

head -c 104857600 /dev/zero > "/tmp/holdfast-escape-$$" && done=yes
rm "/tmp/holdfast-escape-$$"
[ "$done" ] && exit 42
