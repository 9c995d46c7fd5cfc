"""Sends half a request, is silent for long, and sends the rest."""

import json
import socket
import struct
import sys
import time

told = json.loads(sys.argv[1])
try:
    import holdfast_guest

    link, token = socket.socket(fileno=holdfast_guest._descriptor), holdfast_guest._token
except ImportError:
    link, token = socket.socket(1, 1, 0), "its own"
    link.connect(told["socket"])


def frame(**change):
    body = json.dumps({"token": token, "kind": "tool", "name": "a", "arguments": {}, **change}).encode()
    return struct.pack("!I", len(body)) + body


def answered():
    try:
        head = link.recv(4, socket.MSG_WAITALL)
        return len(head) == 4 and "value" in json.loads(link.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL))
    except OSError:
        return False


whole = frame()
link.sendall(whole[:9])
time.sleep(7)
try:
    link.sendall(whole[9:])
except OSError:
    raise SystemExit(1) from None
raise SystemExit(42 if answered() else 1)
