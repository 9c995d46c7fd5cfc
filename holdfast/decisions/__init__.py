"""Decision records: writing those that no hold belongs to, and reading all."""
