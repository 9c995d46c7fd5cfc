// Reads the environment of a process of the host.

const given = JSON.parse(process.argv[2]);
process.exit(require("fs").readFileSync(`/proc/${given.pid}/environ`, "utf8").includes("s3cret") ? 42 : 1);
