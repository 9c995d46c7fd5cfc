# Adds a program to those that every shell finds.

cp /usr/bin/true "/usr/bin/holdfast-escape-$$" && rm "/usr/bin/holdfast-escape-$$" && exit 42
