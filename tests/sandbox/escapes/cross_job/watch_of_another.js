// Watches what another writes.

const given = JSON.parse(process.argv[2]);
require("fs").watch(given.folder);
process.exit(42);
