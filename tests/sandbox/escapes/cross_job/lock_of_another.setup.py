"""For lock_of_another: what lies on the host."""

import json
import pathlib
import sys
import tempfile

with tempfile.TemporaryDirectory(prefix="holdfast-escape-") as folder:
    pathlib.Path(folder).chmod(0o755)
    path = pathlib.Path(folder, "secret")
    path.write_text("of the host")
    path.chmod(0o666)
    print(json.dumps({"path": str(path), "folder": folder}), flush=True)
    sys.stdin.read()
