"""Who runs it? The one place that builds Temporal workers."""
