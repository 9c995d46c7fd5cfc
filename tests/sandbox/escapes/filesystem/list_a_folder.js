// Lists a folder of the host.

const given = JSON.parse(process.argv[2]);
process.exit(require("fs").readdirSync(given.folder).length ? 42 : 1);
