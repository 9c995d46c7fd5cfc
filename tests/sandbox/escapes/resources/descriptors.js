// Opens five hundred files at once.

const fs = require("fs");
for (let n = 0; n < 500; n++) fs.openSync("/dev/null");
process.exit(42);
