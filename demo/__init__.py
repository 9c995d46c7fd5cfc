"""What does it look like in use? Jobs that run against a live stack."""
