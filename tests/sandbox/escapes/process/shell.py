"""Starts a shell."""

import subprocess

raise SystemExit(subprocess.run(["/bin/sh", "-c", "exit 42"]).returncode)
