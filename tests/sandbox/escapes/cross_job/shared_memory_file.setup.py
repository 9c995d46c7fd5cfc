"""For shared_memory_file: what lies on the host."""

import json
import os
import secrets
import sys

name = f"holdfast-escape-{os.getpid()}-{secrets.token_hex(4)}"
print(json.dumps({"name": name}), flush=True)
sys.stdin.read()
for folder in ("/tmp", "/dev/shm", "/var/tmp"):
    if os.path.exists(f"{folder}/{name}"):
        os.unlink(f"{folder}/{name}")
