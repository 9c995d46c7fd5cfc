"""`holdfast log witness`: cosigns a log's checkpoints, with a key and a memory of its own, and refuses a fork or a rollback."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.session import Session, with_session
from cli.stack.data_folder import write_atomically
from cli.terminal import note as tell
from cli.terminal import say
from cli.text import json_line
from holdfast.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from holdfast.transparency.witnessing import Seen
    from holdfast_verdict.log.note import VerifierKey

_EVERY_S_MIN: Final = 1


@with_session
def witness(
    session: Session,
    log_key: Annotated[
        list[str],
        typer.Option(metavar="VKEY", help="Public key of the log, from elsewhere than the server; may be given again."),
    ],
    key: Annotated[Path, typer.Option(help="File of the witness's own private key; made if it is not there.")],
    state: Annotated[Path, typer.Option(help="File of what the witness remembers; made if it is not there.")],
    name: Annotated[str, typer.Option(help="The witness's name on its cosignatures, like a URL without its scheme.")],
    every_s: Annotated[
        int | None, typer.Option(min=_EVERY_S_MIN, help="Go on, and look again after so many seconds. Default: once.")
    ] = None,
) -> None:
    """Looks at the newest checkpoint, cosigns it if it follows from the last one that it has seen, and hands that in.

    Run it on another host than the server, with an auditor's key. Its public key is printed; an owner makes it known to the log
    with `holdfast log add-witness`. What it refuses ends it with exit code 1, and both checkpoints are kept beside the state.
    """
    from holdfast_verdict.log.invalid import LogInvalid
    from holdfast_verdict.log.note import VerifierKey

    try:
        keys = [VerifierKey.parse(each) for each in log_key]
    except LogInvalid as error:
        raise ConfigurationInvalid(f"--log-key: {error}") from None
    private, own = _own_key(key, name)
    said = -1
    while True:
        size = _once(session, keys, private, own, state)
        if size != said:
            line = {"cosigned": size, "witness": own.text}
            say(json_line(line) if session.as_json else f"cosigned {size} records as {own.text}")
            said = size
        if every_s is None:
            return
        time.sleep(every_s)


@with_session
def add_witness(
    session: Session, vkey: Annotated[str, typer.Argument(metavar="VKEY", help="The witness's public key.")]
) -> None:
    """Makes a witness known to the log: its cosignatures are taken, and served with the checkpoints."""
    session.client.add_witness(vkey)
    session.show({"added": vkey}, lambda: [f"cosignatures of {vkey} are taken"])


def _once(session: Session, keys: list[VerifierKey], private: Ed25519PrivateKey, own: VerifierKey, state: Path) -> int:
    """Cosigns the newest checkpoint, and returns its size."""
    from holdfast.transparency.witnessing import LogForked, follow
    from holdfast_verdict.log.checkpoint import Checkpoint
    from holdfast_verdict.log.note import Note, cosign

    seen = _read(state)
    newest = session.client.log_consistency(0)
    shown, proof = newest.checkpoint, list[str]()
    try:
        if 0 < seen.size < newest.size:
            consistent = session.client.log_consistency(seen.size, size=newest.size)
            shown, proof = consistent.checkpoint, consistent.proof
        after = follow(seen, shown, [base64.b64decode(each) for each in proof], keys)
    except LogForked:
        evidence = state.with_name(f"{state.name}.evidence-{int(time.time())}")
        write_atomically(evidence, f"remembered:\n{seen.note}\nshown:\n{shown}")
        tell(f"both checkpoints are in {evidence}")
        raise
    # remembered before it is handed out: killed here, it cosigns the same again, and never another of that size
    write_atomically(
        state, json_line({"origin": after.origin, "size": after.size, "root": after.root.hex(), "note": after.note})
    )
    text = Note.parse(after.note).text
    signature = cosign(text, own, private.sign, int(time.time()))
    session.client.cosign(Note(text, (*Note.parse(after.note).signatures, signature)).message)
    return Checkpoint.parse(text).size


def _own_key(path: Path, name: str) -> tuple[Ed25519PrivateKey, VerifierKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from holdfast.settings import read_key_file
    from holdfast.transparency.keys import new_key
    from holdfast_verdict.log.invalid import LogInvalid
    from holdfast_verdict.log.note import COSIGNATURE, VerifierKey

    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_key() + "\n")
    private = Ed25519PrivateKey.from_private_bytes(read_key_file(path))
    try:
        return private, VerifierKey(name, COSIGNATURE, private.public_key().public_bytes_raw())
    except LogInvalid as error:
        raise ConfigurationInvalid(f"--name: {error}") from None


def _read(path: Path) -> Seen:
    import json

    from holdfast.transparency.witnessing import Seen

    if not path.exists():
        return Seen()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Seen(str(found["origin"]), int(found["size"]), bytes.fromhex(found["root"]), str(found["note"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationInvalid(
            f"{path} is not what a witness remembers: {error}",
            remedy="restore it from a backup: without its memory a witness would cosign a fork",
        ) from None
