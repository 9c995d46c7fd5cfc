"""The backend that has gVisor's `runsc` put a kernel of its own between a job and the host."""
