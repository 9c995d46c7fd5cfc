"""Tenancy: tenants with their projects and users, API keys, and who is calling."""
