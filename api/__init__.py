"""Who asks? The HTTP front."""
