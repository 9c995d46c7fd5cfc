// Opens its debugger to the network.

require("inspector").open(0, "127.0.0.1");
process.exit(require("inspector").url() ? 42 : 1);
