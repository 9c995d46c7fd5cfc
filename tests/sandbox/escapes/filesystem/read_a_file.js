// Reads a file of the host that everybody may read.

const given = JSON.parse(process.argv[2]);
process.exit(require("fs").readFileSync(given.path, "utf8") === "of the host" ? 42 : 1);
