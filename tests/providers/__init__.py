"""The model side: both wires, the call through the real SDKs, and the simulated provider."""
