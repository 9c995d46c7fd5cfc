"""What another policy would have decided: recorded decisions evaluated again by a candidate, offline or on a server."""
