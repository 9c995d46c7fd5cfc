// Leaves a second name of a file as its output.

const fs = require("fs");
fs.writeFileSync("a", "");
fs.linkSync("a", "b");
process.exit(42);
