// Has the processor before all others.

require("os").setPriority(0, -5);
process.exit(42);
