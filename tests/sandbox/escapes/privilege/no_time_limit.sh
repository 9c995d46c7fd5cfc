# Takes the limit from its CPU time.

ulimit -t unlimited && exit 42
