"""Models behind providers' wires: one canonical form, and pure translation to and from each wire."""
