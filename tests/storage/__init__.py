"""Object storage in S3."""
