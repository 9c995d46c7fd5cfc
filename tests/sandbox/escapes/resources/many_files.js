// Makes 6,000 files.

const fs = require("fs");
for (let n = 0; n < 6000; n++) fs.writeFileSync(`f${n}`, "");
process.exit(42);
