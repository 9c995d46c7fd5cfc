# Reads the host's passwords.

grep -q . /etc/shadow && exit 42
