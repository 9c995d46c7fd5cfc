"""The policy language: text to syntax tree, to types, to the compiled form; and the formatter."""
