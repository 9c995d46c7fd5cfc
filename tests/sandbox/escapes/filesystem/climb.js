// Reads a file of the host by climbing out of its folder.

const given = JSON.parse(process.argv[2]);
const path = "../".repeat(40) + given.path.slice(1);
process.exit(require("fs").readFileSync(path, "utf8") === "of the host" ? 42 : 1);
