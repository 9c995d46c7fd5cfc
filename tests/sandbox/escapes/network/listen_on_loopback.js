// Waits for connections.

require("net").createServer().listen(0, "127.0.0.1", () => process.exit(42));
