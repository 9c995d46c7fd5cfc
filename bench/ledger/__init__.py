"""`bench ledger`: what the ledger does in a second, against a naive one, a hot row and plain inserts on the same server."""
