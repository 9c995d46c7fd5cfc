"""`holdfast audit`: decisions in a file, whether they are what they are said to be, and whether Temporal's history says the same."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import retention
from cli.files import TIMES, utc, write_pieces
from cli.session import AsJson, Session, with_session
from cli.terminal import EXIT_CODES_HELP, ExitCode, note
from holdfast.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from sdk import CrossCheck


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        help="Decisions that anybody can check without the server.", epilog=EXIT_CODES_HELP, no_args_is_help=True
    )
    group.command(epilog="Exit codes: 0 all of it holds, 1 something does not, 2 it could not be looked at.")(verify)
    group.command(epilog=EXIT_CODES_HELP)(export)
    group.command(name="cross-check", epilog=EXIT_CODES_HELP)(cross_check)
    retention.register(group)
    app.add_typer(group, name="audit")


@with_session
def export(
    session: Session,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; one that is there is not overwritten.")],
    run: Annotated[str | None, typer.Option(help="Only the decisions of this run. Default: all of the tenant.")] = None,
    start: Annotated[
        datetime | None, typer.Option("--from", formats=TIMES, help="Decisions from then on, UTC. Default: the first.")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", formats=TIMES, help="Decisions before then, UTC. Default: now.")
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="A checkpoint that you saw before: the bundle proves to go on from it.")
    ] = None,
) -> None:
    """Writes decisions into a file that anybody can check without the server; the export is recorded as a decision."""
    size = None if since is None else _size(since)
    pieces = session.client.audit_export(run_id=run, start=utc(start), end=utc(end), since=size)
    written = write_pieces(out, pieces)
    with out.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1_000_000), b""))
    session.show(
        {"file": str(out), "bytes": written, "lines": lines}, lambda: [f"{out}: {lines} lines, {written} bytes"]
    )
    note(f"check it: holdfast audit verify {out}")


def _size(file: Path) -> int:
    from holdfast_verdict.log.checkpoint import Checkpoint
    from holdfast_verdict.log.invalid import NoteInvalid
    from holdfast_verdict.log.note import Note

    try:
        return Checkpoint.parse(Note.parse(file.read_bytes()).text).size
    except (OSError, NoteInvalid) as error:
        raise ConfigurationInvalid(
            f"{file} is no checkpoint: {error}", remedy="name a file with a signed checkpoint"
        ) from None


_SOURCES: Final = {
    "temporal": "Temporal's own history",
    "stored": "the history that was kept when the run had ended",
    "none": "no history",
}


@with_session
def cross_check(
    session: Session,
    *,
    run: Annotated[str, typer.Option(help="Id of the run.")],
) -> None:
    """Holds Temporal's history of a run against the log: exit code 0 if both say the same, 1 with every difference if not."""
    checked = session.client.cross_check(run)
    session.show(checked, lambda: _told(checked))
    if not checked.agrees:
        raise typer.Exit(ExitCode.FAILED)


def _told(checked: CrossCheck) -> list[str]:
    counts = (
        f"{checked.executions} executions of the workflow, {checked.events} events, {checked.activities} activities"
    )
    allowed = f"the log allowed {checked.allowed} actions"
    lines = [f"run {checked.run_id} ({checked.status}): {_SOURCES[checked.source]}, {counts}; {allowed}"]
    if checked.digest:
        lines.append(f"the log has the history's digest {checked.digest} in decision {checked.recorded_in}")
    lines += [f"note: {each}" for each in checked.notes]
    for one in checked.differences:
        lines.append(f"DIFFERENCE ({one.code}): {one.sentence}")
    lines.append(
        "history and log agree"
        if checked.agrees
        else f"history and log do NOT agree: {len(checked.differences)} differences"
    )
    return lines


def verify(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="A public key that you trust, or a file with one a line. Default: the bundle's own, and it says so."
        ),
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="A checkpoint that you saw before: the log has to go on from it.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write what happened as a page to read, too.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say whether it holds, and not what happened.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes to use; 0 is one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Checks a bundle: signature, log, records, policies, verdicts, consents, outcomes and balances."""
    from holdfast_verdict.verify.command import Options, run

    options = Options(file, key or (), since, html, as_json, quiet, workers)
    raise typer.Exit(run(options, sys.stdout, sys.stderr))
