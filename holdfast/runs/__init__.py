"""Runs: what an agent is, admission, and the way to Temporal."""
