// Reads what the host has mounted.

process.exit(require("fs").readFileSync("/proc/self/mountinfo").length ? 42 : 1);
