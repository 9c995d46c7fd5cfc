# Leaves a symbolic link as its output.

cp -s /etc/passwd report && exit 42
