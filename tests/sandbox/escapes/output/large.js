// Leaves a file of 70 MB.

require("fs").writeFileSync("report", Buffer.alloc(70 << 20, "1"));
process.exit(42);
