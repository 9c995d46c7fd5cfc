"""The embedded stack: PostgreSQL, Valkey, Temporal and Holdfast's own processes as children of one supervisor."""
