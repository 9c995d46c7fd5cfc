# Asks with the token of another run.

socket=$(printf %s "$1" | sed 's/.*"socket": "\([^"]*\)".*/\1/')
python=$(sed -n "s/^exec '*\([^ ']*\)'* -I.*/\1/p" /usr/bin/holdfast-guest 2>/dev/null)
exec "${python:-python3}" -I -S -c 'import json, os, socket, struct, sys
number, _, token = os.environ.get("HOLDFAST_GUEST", "").partition(":")
link = socket.socket(fileno=int(number)) if number else socket.socket(1)
number or link.connect(sys.argv[1])
request = {"token": "of-another-run", "kind": "tool", "name": "a", "arguments": {}}
body = json.dumps(request).encode()
link.sendall(struct.pack("!I", len(body)) + body)
head = link.recv(4, socket.MSG_WAITALL)
answer = link.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL) if len(head) == 4 else b""
raise SystemExit(42 if b"value" in answer else 1)' "$socket"
