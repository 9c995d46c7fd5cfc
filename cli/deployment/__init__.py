"""Running Holdfast on servers of one's own: which process holds which secret, and the files that they are in."""
