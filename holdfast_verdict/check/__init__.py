"""Is a policy what its author meant? Proofs and examples before it is switched on, and cases that it has to decide as they say."""
