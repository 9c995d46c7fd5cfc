"""A small real process that plays the part of one of Holdfast's own: it behaves as its first argument says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(behaviour: str) -> int:
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "done":
        print("the-key-shown-once")
        return 0
    if behaviour == "crash" or Path(behaviour).is_file():  # the path of a marker: as long as that is there
        print("something is badly wrong", file=sys.stderr)
        return 3
    if behaviour == "parent":
        child = subprocess.Popen([sys.executable, "-I", "-S", __file__, "mute"])
        print(json.dumps({"event": "child", "pid": child.pid}), file=sys.stderr, flush=True)
    if behaviour == "slow-to-start":  # until it is told to go on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        print("not JSON", json.dumps({"event": "starting"}), sep="\n", file=sys.stderr, flush=True)
        signal.sigwait({signal.SIGUSR1})
    if behaviour != "mute":
        print(json.dumps({"event": "ready", "pid": os.getpid()}), file=sys.stderr, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
