// Sees which process it was started by.

process.exit(process.ppid > 0 ? 42 : 1);
