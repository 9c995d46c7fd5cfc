"""A supervisor as a careless person writes one, for attempts to succeed against outside: it checks nothing and answers everything."""

import array
import contextlib
import json
import os
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path


def _serve(link: socket.socket) -> None:
    buffer, reply = b"", json.dumps({"value": True}).encode()
    with contextlib.suppress(ConnectionError):
        while part := link.recvmsg(65_536, socket.CMSG_SPACE(16 * array.array("i").itemsize))[0]:
            buffer += part
            while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack_from("!I", buffer)[0]:
                buffer = buffer[4 + struct.unpack_from("!I", buffer)[0] :]
                link.sendall(struct.pack("!I", len(reply)) + reply)


def _accept(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=_serve, args=(listener.accept()[0],), daemon=True).start()


with tempfile.TemporaryDirectory(prefix="holdfast-careless-") as folder:
    Path(folder).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        os.chmod(f"{folder}/socket", 0o777)  # noqa: PTH101 (a socket)
        listener.listen(64)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        print(json.dumps({"socket": f"{folder}/socket", "token": "of-another-run"}), flush=True)
        sys.stdin.read()
