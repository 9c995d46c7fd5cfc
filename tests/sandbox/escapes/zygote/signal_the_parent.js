// Signals the process that it was started by.

process.kill(process.ppid || 2 ** 30, 0);
process.exit(42);
