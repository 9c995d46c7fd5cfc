"""`make test-cluster`: compose.yaml's services, run natively. Not part of `make test`."""
