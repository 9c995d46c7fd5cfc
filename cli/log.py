"""`holdfast log …`: the transparency log, its keys and its witnesses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import Session, with_session
from cli.stack.data_folder import DataFolder, default_path, write_atomically
from cli.terminal import EXIT_CODES_HELP, reported, say
from cli.text import json_line
from cli.witness import add_witness, witness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.transparency.keys import KeyLines
    from sdk.log import LogStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StackFolder = Annotated[Path | None, typer.Option("--data-dir", help="Data folder of the stack whose key it is.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        help="The transparency log of all decisions: its keys and its witnesses.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
    )
    for command in (status, rotate_key, witness, add_witness):
        group.command(epilog=EXIT_CODES_HELP)(command)
    app.add_typer(group, name="log")


@with_session
def status(session: Session) -> None:
    """Shows how the log stands: its size, how far it is signed and cosigned, and what waits for a number."""
    found = session.client.log_status()
    session.show(found, lambda: _standing(found))


def _standing(found: LogStatus) -> Iterator[str]:
    yield f"records    {found.size}"
    if found.checkpoint_size is None:
        yield "signed     nothing yet: the first checkpoint comes within seconds of the first decision"
    else:
        keys = "1 key" if found.keys == 1 else f"{found.keys} keys"
        yield f"signed     {found.checkpoint_size}, at {found.checkpoint_at:%Y-%m-%d %H:%M:%S %Z}, by {keys}"
    late = "" if found.lag_ms is None else f", the oldest for {found.lag_ms / 1000:.1f} s"
    yield f"waiting    {found.waiting}{late}"
    for one in found.witnesses:
        yield f"witness    {one.vkey.split('+')[0]} has cosigned {one.cosigned_size or 0}"
    if not found.witnesses:
        yield "witness    none: nobody but the server's operator vouches that there is no second log"


def rotate_key(
    file: Annotated[
        Path | None,
        typer.Option(help="The key file. Default: that of the data folder; on servers: DIR/master/keys/log.key."),
    ] = None,
    data_dir: StackFolder = None,
    finish: Annotated[bool, typer.Option("--finish", help="End the overlap: the newest key alone signs.")] = False,
    retire: Annotated[
        str | None,
        typer.Option(
            help="Public key, 64 hex digits, that is lost or known to others: it signs no more, without overlap."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Makes a new key that signs the log's checkpoints beside the old ones, until `--finish`.

    The governor takes the file as it is from its next checkpoint on; nothing is restarted. Old public keys stay published.
    """
    with reported():
        from holdfast.errors import RequestInvalid
        from holdfast.settings import read_secret_file
        from holdfast.transparency.keys import KeyLines

        if finish and retire is not None:
            raise RequestInvalid("--finish retires all keys but the newest, and --retire one: give one of them")
        path = file or DataFolder(data_dir or default_path()).secrets / "log.key"
        before = KeyLines.parse(read_secret_file(path), str(path)) if path.exists() else KeyLines((), ())
        after = KeyLines.parse(_rotated(before, finish=finish, retire=retire).text, str(path))
        write_atomically(path, after.text)
        _tell(path, after, as_json=as_json)


def _rotated(before: KeyLines, *, finish: bool, retire: str | None) -> KeyLines:
    from holdfast.errors import ConfigurationInvalid
    from holdfast.transparency.keys import KeyLines, new_key, public_of

    if finish:
        if len(before.private) < 2:  # noqa: PLR2004 (an overlap is of two)
            raise ConfigurationInvalid(
                "there is no overlap to end: one key signs", remedy="run it without --finish first"
            )
        return KeyLines(before.private[:1], (*before.retired, *map(public_of, before.private[1:])))
    if retire is None:
        return KeyLines((new_key(), *before.private), before.retired)
    kept = tuple(each for each in before.private if public_of(each) != retire)
    return KeyLines(kept or (new_key(),), tuple(dict.fromkeys((*before.retired, retire.lower()))))


def _tell(path: Path, after: KeyLines, *, as_json: bool) -> None:
    from holdfast.transparency.keys import public_of

    signing = [public_of(each) for each in after.private]
    if as_json:
        say(json_line({"file": str(path), "sign": signing, "retired": list(after.retired)}))
        return
    for public in signing:
        say(f"signs    {public}")
    for public in after.retired:
        say(f"retired  {public}")
    if len(signing) > 1:
        say("tell those who follow the log of the new key, then: holdfast log rotate-key --finish")
    say(f"back up {path}")
