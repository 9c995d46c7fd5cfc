// Connects to a port on the host's loopback.

const given = JSON.parse(process.argv[2]);
require("net").connect(given.port, "127.0.0.1", () => process.exit(42));
