// Takes another group.

process.setgid(12);
process.exit(42);
