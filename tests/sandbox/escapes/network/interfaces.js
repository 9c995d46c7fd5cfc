// Reads which network interfaces there are.

process.exit(Object.keys(require("os").networkInterfaces()).length ? 42 : 1);
