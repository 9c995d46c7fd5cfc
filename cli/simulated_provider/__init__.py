"""A simulated provider: a real HTTP server that speaks the providers' wires, so that the real SDKs and all code paths run.

Everything it answers is labelled `simulated`.
"""
