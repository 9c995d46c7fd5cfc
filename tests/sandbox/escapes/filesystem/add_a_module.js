// Adds a module to those that every program of Node finds.

const fs = require("fs");
const known = fs.existsSync("/node_modules");
fs.mkdirSync("/node_modules/escape", { recursive: true });
fs.rmSync(known ? "/node_modules/escape" : "/node_modules", { recursive: true });
process.exit(42);
