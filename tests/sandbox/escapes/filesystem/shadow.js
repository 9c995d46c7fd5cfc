// Reads the host's passwords.

process.exit(require("fs").readFileSync("/etc/shadow").length ? 42 : 1);
