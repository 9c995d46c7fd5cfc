"""The transcript of a run: a hash chain of entries, so that the newest entry's id is the digest of the whole conversation."""

from holdfast.transcript.entries import Entry, TranscriptBroken, read, read_runs, verify, write

__all__ = ["Entry", "TranscriptBroken", "read", "read_runs", "verify", "write"]
