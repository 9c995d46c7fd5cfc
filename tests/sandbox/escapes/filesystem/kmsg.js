// Opens the kernel's log.

const { openSync, constants } = require("fs");
openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
process.exit(42);
