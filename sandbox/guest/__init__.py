"""What is laid into jobs: one module, which the server itself never imports."""
