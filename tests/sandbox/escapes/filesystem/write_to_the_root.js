// Makes a file in the root folder.

const fs = require("fs");
const path = `/holdfast-escape-${process.pid}`;
fs.writeFileSync(path, "");
fs.unlinkSync(path);
process.exit(42);
