// Prints 4 MB.

const fs = require("fs");
const part = Buffer.alloc(1 << 16, "x");
for (let n = 0; n < 64; n++) {
    for (let at = 0; at < part.length; ) {
        try {
            at += fs.writeSync(1, part, at);
        } catch (error) {
            if (error.code !== "EAGAIN") throw error;
        }
    }
}
process.exit(42);
