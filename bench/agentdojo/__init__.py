"""AgentDojo's tasks and attacks, replayed without a model through the gate."""
