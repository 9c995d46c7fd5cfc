// Takes more groups.

process.setgroups([0, 1, 2, 3]);
process.exit(42);
