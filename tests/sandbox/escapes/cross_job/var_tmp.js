// Leaves a file for others in /var/tmp.

const given = JSON.parse(process.argv[2]);
require("fs").writeFileSync("/var/tmp/" + given.name, "for others");
process.exit(42);
