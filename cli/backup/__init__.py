"""Backups: PostgreSQL and Temporal at one consistent point, in one archive; and the way back."""
