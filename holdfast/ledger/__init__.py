"""The ledger: one mechanism for every numeric limit. A hold is granted on all its caps or not at all."""
