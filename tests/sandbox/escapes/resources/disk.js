// Writes 100 MB.

const fs = require("fs");
for (let n = 0; n < 100; n++) fs.appendFileSync("file", Buffer.alloc(1 << 20, "1"));
process.exit(42);
