# Makes 6,000 files.

number=0
while [ $number -lt 6000 ]; do
    : > "f$number" || exit 1
    number=$((number + 1))
done
exit 42
