"""`holdfast vault put|list|delete`: credentials go in and are never read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.session import Session, read_json_object, with_session
from cli.terminal import EXIT_CODES_HELP

Name = Annotated[str, typer.Argument(help="Such as provider.anthropic or tool.mail.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Credentials: they go in and are never read back.", no_args_is_help=True)
    group.command(epilog=EXIT_CODES_HELP)(put)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    group.command(epilog=EXIT_CODES_HELP)(delete)
    app.add_typer(group, name="vault")


@with_session
def put(
    session: Session,
    name: Name,
    file: Annotated[Path | None, typer.Option(help="Read it from here; default: standard input.")] = None,
) -> None:
    """Stores a credential, a JSON object, in place of the one of that name."""
    session.client.put_credential(name, read_json_object(file, f"the credential {name}"))
    session.show({"name": name, "stored": True}, lambda: [f"stored {name}"])


@with_session
def list_(session: Session) -> None:
    """Lists credentials by name."""
    entries = session.client.credentials()
    rows = ([entry.name, f"{entry.updated_at:%Y-%m-%d %H:%M:%S}"] for entry in entries)
    session.show_table(entries, ["name", "changed"], rows, "the vault is empty")


@with_session
def delete(session: Session, name: Name) -> None:
    """Deletes a credential."""
    session.client.delete_credential(name)
    session.show({"name": name, "deleted": True}, lambda: [f"deleted {name}"])
