"""The backend that has bubblewrap make namespaces and mounts; every other layer is entered by the same code as natively."""
