// Writes to a file of the host that everybody may write.

const given = JSON.parse(process.argv[2]);
require("fs").writeFileSync(given.path, "changed");
process.exit(42);
