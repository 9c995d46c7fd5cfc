# Makes a file in the root folder.

: > "/holdfast-escape-$$" && rm "/holdfast-escape-$$" && exit 42
