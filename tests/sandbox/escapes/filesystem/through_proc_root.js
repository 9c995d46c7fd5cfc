// Reads a file of the host through a link of /proc.

const given = JSON.parse(process.argv[2]);
process.exit(require("fs").readFileSync("/proc/self/root" + given.path, "utf8") === "of the host" ? 42 : 1);
