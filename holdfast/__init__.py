"""What is true? The domain: tenancy, actions, ledger, decisions, pricing, timeline, providers' wires."""
