"""PostgreSQL: engines, tenant-scoped transactions, migrations."""
