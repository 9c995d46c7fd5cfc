"""In what order? The run and its gate."""
