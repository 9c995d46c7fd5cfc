// Becomes root.

process.setuid(0);
process.exit(42);
