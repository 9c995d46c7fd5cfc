// Removes a file of the host.

const given = JSON.parse(process.argv[2]);
require("fs").unlinkSync(given.path);
process.exit(42);
