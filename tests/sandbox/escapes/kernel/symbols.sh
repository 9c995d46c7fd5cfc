# Reads the names of the kernel's symbols.

grep -q . /proc/kallsyms && exit 42
