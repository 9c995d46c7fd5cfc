# Prints 4 MB.

head -c 4194304 /dev/zero && exit 42
