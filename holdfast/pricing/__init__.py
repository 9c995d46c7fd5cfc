"""What a model call can cost at most before it runs, and what it did cost after; integers only."""
