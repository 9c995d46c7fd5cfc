# Reads the kernel's settings.

grep -q . /proc/sys/kernel/pid_max && exit 42
