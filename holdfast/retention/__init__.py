"""How long the decision log keeps what may be personal: erasure, retention, legal hold."""
