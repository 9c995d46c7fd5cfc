"""What is not as the log's forms say."""

from __future__ import annotations


class LogInvalid(ValueError):
    """Something of the log is malformed or does not hold; the message says what."""


class ProofInvalid(LogInvalid):
    """A proof does not lead to the root."""


class NoteInvalid(LogInvalid):
    """A note is malformed, or no signature of the key that was asked for is on it."""
