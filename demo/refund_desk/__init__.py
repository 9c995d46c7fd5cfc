"""The refund desk: an agent reads a shop's support inbox, refunds, answers, and meets its limits."""
