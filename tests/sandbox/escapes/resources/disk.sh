# Writes 100 MB.

head -c 104857600 /dev/zero > file && exit 42
