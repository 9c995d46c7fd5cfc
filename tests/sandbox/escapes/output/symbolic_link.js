// Leaves a symbolic link as its output.

require("fs").symlinkSync("/etc/passwd", "report");
process.exit(42);
