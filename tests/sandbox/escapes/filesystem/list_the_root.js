// Lists the root folder.

process.exit(require("fs").readdirSync("/").length ? 42 : 1);
