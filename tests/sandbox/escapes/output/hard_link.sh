# Leaves a second name of a file as its output.

: > a && cp -l a b && exit 42
