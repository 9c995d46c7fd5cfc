"""Whether a test notices when the engine's core is changed: `python -m tests.mutation`."""
