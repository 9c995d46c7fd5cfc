"""Actions: from a reference in a workflow to exactly what is decided, held and executed."""
