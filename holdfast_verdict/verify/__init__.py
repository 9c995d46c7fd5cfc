"""Checking what a server says it decided, offline: signature, log, records, policies, verdicts, approvals, outcomes, balances."""
