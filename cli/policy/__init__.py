"""`holdfast policy …`: policies from files, checked, compared, tested, explained, laid out and simulated, without a server."""
