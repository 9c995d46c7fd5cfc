"""The timeline: a run's append-only event log in PostgreSQL, and its live stream in Redis."""
