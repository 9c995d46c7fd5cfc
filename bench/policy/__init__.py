"""What a decision of the policy engine costs, and whether it stays at that."""
