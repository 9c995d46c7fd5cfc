"""How is it run? What goes out with a release, and how it is put on servers."""
