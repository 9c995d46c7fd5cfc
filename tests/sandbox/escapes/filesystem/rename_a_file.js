// Renames a file of the host.

const given = JSON.parse(process.argv[2]);
require("fs").renameSync(given.path, given.path + "-");
process.exit(42);
