# Raises how many descriptors it may have.

ulimit -n 1024 && exit 42
