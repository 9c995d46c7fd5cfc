"""Who integrates? Holdfast over HTTP."""
