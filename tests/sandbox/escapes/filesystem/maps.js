// Reads how its own memory is laid out.

process.exit(require("fs").readFileSync("/proc/self/maps").length ? 42 : 1);
