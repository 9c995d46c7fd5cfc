"""For udp_to_the_host: what lies on the host."""

import json
import socket
import sys
import threading

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))


def echo():
    while True:
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)


threading.Thread(target=echo, daemon=True).start()
print(json.dumps({"port": server.getsockname()[1]}), flush=True)
sys.stdin.read()
