"""`holdfast signers`, `signers add` and `signers revoke`: external systems that consent by a signature."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the signer, as gates ask for it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(signers)
    group.command(epilog=EXIT_CODES_HELP)(add)
    group.command(epilog=EXIT_CODES_HELP)(revoke)
    app.add_typer(group, name="signers")


@with_session
def signers(session: Session, context: typer.Context) -> None:
    """Lists the external systems that may consent by a signature, newest first, revoked ones too."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.signers()
    rows = (
        [
            one.name,
            one.public_key,
            "in force" if one.revoked_at is None else f"revoked {one.revoked_at:%Y-%m-%d %H:%M:%S}",
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
            one.actor,
            one.description,
        ]
        for one in found
    )
    headings = ["name", "public key", "", "added", "by", "for"]
    session.show_table(found, headings, rows, "there are no signers: `holdfast signers add` registers one")


@with_session
def add(
    session: Session,
    name: Name,
    public_key: Annotated[str, typer.Argument(metavar="KEY", help="Ed25519 public key: 32 raw bytes in base64.")],
    description: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Registers an external system with its public key; gates ask for it by its name."""
    made = session.client.add_signer(name, public_key, description=description)
    session.show(made, lambda: [f"{name} may consent by its signature where a gate asks for signer({name!r})"])


@with_session
def revoke(session: Session, name: Name) -> None:
    """Revokes a signer at once; votes that were counted stay."""
    session.client.revoke_signer(name)
    session.show({"name": name, "revoked": True}, lambda: [f"{name} may consent no more"])
