"""What may happen, and can anyone check it? The pure deciding core: no I/O, no clock, no randomness."""
