// Sends a request of sixteen megabytes.

const net = require("net");
const told = JSON.parse(process.argv[2]);
const [, descriptor, token] = /^(\d+):(.*)$/.exec(process.env.HOLDFAST_GUEST ?? "") ?? [];
const link = descriptor ? new net.Socket({ fd: Number(descriptor) }) : net.connect(told.socket);
let said = "";
link.on("data", (part) => {
    said += part;
    if (said.includes("value")) process.exit(42);
});
link.on("close", () => process.exit(1));
link.on("error", () => process.exit(1));
const body = Buffer.from(JSON.stringify({ token: token ?? "its own", kind: "tool", name: "a", arguments: { a: "x".repeat(16 << 20) } }));
const head = Buffer.alloc(4);
head.writeUInt32BE(body.length);
link.write(Buffer.concat([head, body]));
