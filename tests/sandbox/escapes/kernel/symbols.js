// Reads the names of the kernel's symbols.

process.exit(require("fs").readFileSync("/proc/kallsyms").length ? 42 : 1);
