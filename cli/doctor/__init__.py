"""`holdfast doctor`: what is there, what is missing, what to do. It looks, and changes nothing."""
