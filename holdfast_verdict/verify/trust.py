"""Whom a bundle is believed: keys, the signed checkpoint, and the checkpoint that was seen before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holdfast_verdict.log.checkpoint import Checkpoint, SignedCheckpoint
from holdfast_verdict.log.invalid import LogInvalid, NoteInvalid
from holdfast_verdict.log.note import ED25519, Note, VerifierKey
from holdfast_verdict.log.tree import verify_consistency
from holdfast_verdict.verify.findings import DoesNotHold, Finding
from holdfast_verdict.verify.lines import hashes_of


@dataclass(frozen=True, slots=True)
class Trust:
    """What is believed of a log.

    Attributes:
        checkpoint: The checkpoint that holds; None if there is none.
        key: The key that signed it, as text; empty if there is none.
        source: Whether the auditor named the key, or only the bundle did.
        witnesses: Names of those who cosigned it, with keys of the auditor or of the bundle.
        since: Size of the log at the checkpoint that was seen before, if it was compared.
    """

    checkpoint: Checkpoint | None = None
    key: str = ""
    source: Literal["given", "bundle", "nobody"] = "nobody"
    witnesses: tuple[str, ...] = ()
    since: int | None = None


def parse_keys(texts: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Reads public keys.

    Raises:
        DoesNotHold: One is malformed.
    """
    keys = []
    for text in texts:
        try:
            keys.append(VerifierKey.parse(text))
        except NoteInvalid as error:
            raise DoesNotHold("audit.signature", f"{text[:100]!r}: {error}") from None
    return tuple(keys)


def open_checkpoint(
    header: Mapping[str, Any], notes: Sequence[str], brought: Sequence[str], given: Sequence[VerifierKey]
) -> Trust:
    """Verifies the checkpoint of a bundle.

    Args:
        header: The bundle's header.
        notes: Its checkpoints: one.
        brought: The keys in it, as text.
        given: The keys that the auditor trusts; none = those of the bundle are taken.

    Raises:
        DoesNotHold: Nothing that is trusted vouches for the tree.
    """
    keys = parse_keys(brought)
    if len(set(brought)) != len(brought):
        raise DoesNotHold("audit.signature", "a key is there twice")
    if len(notes) != 1:
        raise DoesNotHold("audit.checkpoint", "there is no signed checkpoint in the file, so nothing in it is proved")
    trusted = given or tuple(key for key in keys if key.algorithm == ED25519)
    try:
        note = Note.parse(notes[0])
        origin = Checkpoint.parse(note.text).origin
        if origin != header["origin"] or header["tenant_id"] not in origin:
            raise DoesNotHold("audit.checkpoint", f"it is of the log {origin}, and the bundle is of {header['origin']}")
        if given and not {(k.name, k.key_id) for k in given} & {(s.name, s.key_id) for s in note.signatures}:
            signers = ", ".join(sorted(f"{s.name}+{s.key_id.hex()}" for s in note.signatures))
            raise DoesNotHold(
                "audit.signature", f"the checkpoint is signed by {signers}, and by none of the keys given"
            )
        signed = SignedCheckpoint.open(notes[0], trusted)
        known = {(key.name, key.key_id): key for key in (*keys, *given)}
        for signature in note.signatures:
            signer = known.get((signature.name, signature.key_id))
            if signer is None:
                raise DoesNotHold("audit.checkpoint", f"it has a signature of {signature.name} whose key is not there")
            note.verified(signer)
    except LogInvalid as error:
        raise DoesNotHold("audit.checkpoint", str(error)) from None
    witnesses = tuple(s.name for s in note.signatures if s.name != signed.key.name)
    return Trust(signed.checkpoint, signed.key.text, "given" if given else "bundle", witnesses)


def check_since(
    trust: Trust, seen: str, consistency: Sequence[Mapping[str, Any]], keys: Sequence[VerifierKey]
) -> tuple[int, list[Finding]]:
    """Compares with a checkpoint that was seen before. Returns that one's size, and what does not hold."""
    subject, checkpoint = "the earlier checkpoint", trust.checkpoint
    if checkpoint is None:
        return 0, [Finding("audit.consistency", subject, "there is no checkpoint in the file to compare it with")]
    try:
        earlier = SignedCheckpoint.open(seen, keys).checkpoint
    except LogInvalid as error:
        return 0, [Finding("audit.consistency", subject, str(error))]
    if earlier.origin != checkpoint.origin:
        return 0, [Finding("audit.consistency", subject, f"it is of another log, {earlier.origin}")]
    path: list[bytes] | None = [] if earlier.size in (0, checkpoint.size) else None
    for line in consistency:
        if line["from_size"] == earlier.size:
            path = hashes_of(line["path"])
    if path is None and earlier.size < checkpoint.size:
        wrong = f"the file has no proof from {earlier.size} to {checkpoint.size}: export it again with this checkpoint"
        return earlier.size, [Finding("audit.consistency", subject, wrong)]
    return earlier.size, list(_compare(checkpoint, earlier.size, earlier.root, path or [], subject))


def check_consistency(checkpoint: Checkpoint, lines: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Checks the proofs of consistency that a bundle brings."""
    for number, line in lines:
        subject = f"proof of consistency from {line['from_size']}"
        try:
            path = hashes_of(line["path"])
        except DoesNotHold as wrong:
            yield Finding(wrong.code, subject, wrong.wrong, number)
            continue
        root = bytes.fromhex(line["from_root"])
        for found in _compare(checkpoint, line["from_size"], root, path, subject):
            yield found._replace(line=number)


def _compare(checkpoint: Checkpoint, size: int, root: bytes, path: Sequence[bytes], subject: str) -> Iterator[Finding]:
    try:
        verify_consistency(old_size=size, old_root=root, size=checkpoint.size, root=checkpoint.root, proof=path)
    except LogInvalid as error:
        yield Finding("audit.consistency", subject, str(error))
