# Starts a hundred processes.

trap 'kill $all' EXIT
number=0
while [ $number -lt 100 ]; do
    sleep 60 > /dev/null 2>&1 &
    all="$all $!"
    number=$((number + 1))
done
kill -0 $all && exit 42
exit 1
