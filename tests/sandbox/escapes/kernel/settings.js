// Reads the kernel's settings.

process.exit(require("fs").readFileSync("/proc/sys/kernel/pid_max").length ? 42 : 1);
