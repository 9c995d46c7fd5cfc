"""`holdfast secrets init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal import EXIT_CODES_HELP, reported, say
from cli.text import json_line


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Keys and passwords of an installation on servers of your own.", no_args_is_help=True)
    group.callback()(_keep_group)
    group.command(epilog=EXIT_CODES_HELP)(init)
    app.add_typer(group, name="secrets")


def _keep_group() -> None:
    """Lets `init` be a subcommand while it is the only one."""


def init(
    folder: Annotated[Path, typer.Option("--dir", help="Where they are kept.")] = Path("secrets"),
    postgres: Annotated[str, typer.Option(help="host:port of PostgreSQL, as processes reach it.")] = "postgres:5432",
    redis: Annotated[str, typer.Option(help="host:port of Redis or Valkey.")] = "redis:6379",
    superuser: Annotated[
        str, typer.Option(help="where PostgreSQL's superuser comes in: host:port, or the folder of its socket.")
    ] = "/var/run/postgresql",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Makes all keys and passwords that are missing, with a folder for each process that has its own and no other's.

    Run again it keeps what is there, and writes the files of the processes anew from DIR/master. Back that folder up.
    """
    with reported():
        from cli.deployment.secret_files import FILES, MASTER, Places, make

        changed = make(folder, Places(postgres=postgres, redis=redis, superuser=superuser))
        if as_json:
            say(json_line({"written": [str(file) for file in changed], "back_up": str(folder / MASTER)}))
            return
        say(f"{len(changed)} files were written for {len(FILES)} processes; back up {folder / MASTER}")
