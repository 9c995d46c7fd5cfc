// Starts a shell.

process.exit(require("child_process").spawnSync("/bin/sh", ["-c", "exit 42"]).status ?? 1);
