# Connects to a port on the host's loopback by the Python that runs the guest's command.

port=$(printf %s "$1" | sed 's/.*"port": \([0-9]*\).*/\1/')
python=$(sed -n "s/^exec '*\([^ ']*\)'* -I.*/\1/p" /usr/bin/holdfast-guest 2>/dev/null)
exec "${python:-python3}" -I -S -c "import socket; socket.create_connection(('127.0.0.1', $port), 3); raise SystemExit(42)"
