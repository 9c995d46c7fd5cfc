// Connects to a port on the host's loopback from a thread.

const { Worker } = require("worker_threads");
const port = JSON.parse(process.argv[2]).port;
const code = `require("net").connect(${port}, "127.0.0.1", () => require("worker_threads").parentPort.postMessage(1));`;
new Worker(code, { eval: true }).on("message", () => process.exit(42));
