"""`holdfast policy …`: policies in files, checked, compared, tested and explained without a server, and the versions on a server."""
