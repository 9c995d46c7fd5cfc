// Sends a datagram to the host's loopback and gets it back.

const given = JSON.parse(process.argv[2]);
const socket = require("dgram").createSocket("udp4");
socket.on("message", () => process.exit(42));
socket.send("hello", given.port, "127.0.0.1");
setTimeout(() => process.exit(1), 3000);
