# Uses 600 MB in one process.

awk 'BEGIN { text = "0123456789abcdef"; while (length(text) < 600000000) text = text text; exit 42 }'
