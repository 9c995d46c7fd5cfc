# Connects to a socket of the host by the Python that runs the guest's command.

path=$(printf %s "$1" | sed 's/.*"path": "\([^"]*\)".*/\1/')
python=$(sed -n "s/^exec '*\([^ ']*\)'* -I.*/\1/p" /usr/bin/holdfast-guest 2>/dev/null)
exec "${python:-python3}" -I -S -c "import socket; socket.socket(1).connect('$path'); raise SystemExit(42)"
