"""For memory_of_a_process: what lies on the host."""

import json
import subprocess
import sys

with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], env={"TOKEN": "s3cret"}) as process:
    print(json.dumps({"pid": process.pid}), flush=True)
    sys.stdin.read()
    process.kill()
