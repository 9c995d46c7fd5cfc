"""The refund desk's outside world: real servers on loopback that keep what reaches them, so that doubles can be counted."""
