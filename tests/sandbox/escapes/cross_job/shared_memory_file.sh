# Leaves a file in shared memory for others.

name=$(printf %s "$1" | sed 's/.*"name": "\([^"]*\)".*/\1/')
echo for others > "/dev/shm/$name" && exit 42
