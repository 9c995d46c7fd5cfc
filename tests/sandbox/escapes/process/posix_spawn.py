"""Starts a program by posix_spawn."""

import os

pid = os.posix_spawn("/bin/true", ["true"], {})
raise SystemExit(42 if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 else 1)
