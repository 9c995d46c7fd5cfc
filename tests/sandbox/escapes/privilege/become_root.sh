# Is root in a root folder of its own choice.

mkdir -p "$PWD/new" && chroot / true && exit 42
