"""What tools are there, and what may their arguments be? Pure: nothing here reaches outside."""
