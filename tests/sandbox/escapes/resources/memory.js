// Uses 800 MB in one process.

const held = [];
while (held.length < 100) held.push(Buffer.alloc(8 << 20, "1"));
process.exit(42);
