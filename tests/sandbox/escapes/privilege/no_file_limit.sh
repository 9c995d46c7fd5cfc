# Takes the limit from the size of its files.

ulimit -f unlimited && exit 42
