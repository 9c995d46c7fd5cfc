// Reads a file of the host through a symbolic link of its own.

const fs = require("fs");
const given = JSON.parse(process.argv[2]);
fs.symlinkSync(given.path, "link");
process.exit(fs.readFileSync("link", "utf8") === "of the host" ? 42 : 1);
