"""What a witness does: it remembers the last checkpoint that it has cosigned, and cosigns only what follows from it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import HoldfastError
from holdfast_verdict.log import tree
from holdfast_verdict.log.checkpoint import SignedCheckpoint
from holdfast_verdict.log.invalid import LogInvalid, ProofInvalid
from holdfast_verdict.log.note import VerifierKey


class LogForked(HoldfastError):
    """A log shows something that does not follow from what was seen of it before; it is not cosigned."""

    code = "log.forked"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a witness remembers of a log.

    Attributes:
        origin: The log's name; empty before anything was seen.
        size: Size of the last checkpoint that it has cosigned.
        root: Its root.
        note: Its note, as evidence.
    """

    origin: str = ""
    size: int = 0
    root: bytes = tree.EMPTY_ROOT
    note: str = ""


def follow(seen: Seen, message: str, proof: Sequence[bytes], keys: Sequence[VerifierKey]) -> Seen:
    """Returns what a witness remembers from now on; only then may it cosign.

    Args:
        seen: What it remembers.
        message: The checkpoint that the log shows.
        proof: The log's proof that it follows from the one that is remembered.
        keys: Keys that the log is known by.

    Raises:
        LogForked: It does not follow from it, or is not signed by the log.
    """
    try:
        opened = SignedCheckpoint.open(message, keys)
    except LogInvalid as error:
        raise LogForked(f"what the log shows is no checkpoint of it: {error}") from None
    found = opened.checkpoint
    if seen.origin and found.origin != seen.origin:
        raise LogForked(f"this is the log {found.origin}, and {seen.origin} was cosigned before")
    try:
        tree.verify_consistency(old_size=seen.size, old_root=seen.root, size=found.size, root=found.root, proof=proof)
    except ProofInvalid as error:
        raise LogForked(
            f"the log {found.origin} does not follow from its checkpoint of {seen.size} records: {error}",
            remedy="keep both checkpoints: together they are the evidence",
        ) from None
    return Seen(found.origin, found.size, found.root, message)
