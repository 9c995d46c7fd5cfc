// Makes a file of a gigabyte, of which nothing is written.

const fs = require("fs");
fs.writeFileSync("file", "");
fs.truncateSync("file", 2 ** 30);
process.exit(42);
