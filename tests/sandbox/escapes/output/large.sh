# Leaves a file of 70 MB.

head -c 73400320 /dev/zero > report && exit 42
