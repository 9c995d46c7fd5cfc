"""Temporal's histories of runs: fetching, keeping and reading them, and holding them against the decision log."""
