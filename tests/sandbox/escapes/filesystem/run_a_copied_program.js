// Runs a program that it wrote itself.

const fs = require("fs");
fs.writeFileSync("program", `#!${process.execPath}\nprocess.exit(42)\n`, { mode: 0o755 });
process.exit(require("child_process").spawnSync("./program").status ?? 1);
