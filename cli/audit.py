"""`holdfast audit verify`: whether decisions are what they are said to be, checked without the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.session import AsJson
from cli.terminal import EXIT_CODES_HELP


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(
        help="Decisions that anybody can check without the server.", epilog=EXIT_CODES_HELP, no_args_is_help=True
    )
    group.command(epilog="Exit codes: 0 all of it holds, 1 something does not, 2 it could not be looked at.")(verify)
    app.add_typer(group, name="audit")


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
