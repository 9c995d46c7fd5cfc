// Ends a process of the host.

const given = JSON.parse(process.argv[2]);
process.kill(given.pid, "SIGTERM");
process.exit(42);
