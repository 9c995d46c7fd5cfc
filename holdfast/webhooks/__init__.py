"""Webhooks: telling others, signed, what happened that somebody may have to act on."""
