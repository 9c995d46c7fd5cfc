"""`holdfast keys list|create|revoke`: API keys of a tenant. A key itself is shown once, when it is made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run import seconds
from cli.session import KeyOut, Session, check_out, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.errors import NotFound

if TYPE_CHECKING:
    from pydantic import JsonValue

    from sdk import CreatedKey, Key


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="API keys: one is shown once, when it is made.", no_args_is_help=True)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    group.command(epilog=EXIT_CODES_HELP)(create)
    group.command(epilog=EXIT_CODES_HELP)(revoke)
    app.add_typer(group, name="keys")


@with_session
def list_(session: Session) -> None:
    """Lists keys by what may be shown of them, revoked ones too."""
    found = session.client.keys()
    rows = (
        [
            one.key_id,
            one.prefix,
            one.user,
            one.project,
            ",".join(one.roles),
            _state(one),
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
        ]
        for one in found
    )
    session.show_table(
        found, ["key", "begins with", "user", "project", "roles", "state", "made"], rows, "there are no keys"
    )


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is None:
        return "in force"
    # by this machine's clock, for the eye only: the server's decides
    return f"{'expired' if key.expires_at < datetime.now(UTC) else 'until'} {key.expires_at:%Y-%m-%d %H:%M}"


@with_session
def create(
    session: Session,
    user: Annotated[str, typer.Argument(help="Name of the user it stands for.")],
    role: Annotated[
        list[str],
        typer.Option(
            help="owner, admin, developer, approver, auditor, viewer, agent, or a name that gates ask for; may be repeated."
        ),
    ],
    project: Annotated[str, typer.Option(help="Project in which it acts.")] = "default",
    expires: Annotated[
        str | None, typer.Option(help="In force for so long, such as 12h or 90d. Default: for ever.")
    ] = None,
    new_user: Annotated[bool, typer.Option("--new-user", help="Make the user first.")] = False,
    out: KeyOut = None,
) -> None:
    """Makes a key and shows it once. Lost is lost: revoke it and make another."""
    from sdk import HoldfastApiError

    out = check_out(out)
    client = session.client
    if new_user:
        client.create_user(user)
    try:
        made = client.create_key(user, project, role, expires_in_s=None if expires is None else seconds(expires))
    except HoldfastApiError as error:
        if error.code != NotFound.code:
            raise
        raise NotFound(
            f"{error.detail} ({error.code})", remedy="users are made with --new-user; projects over the API"
        ) from None
    session.show_key(
        created(made),
        made.key,
        f"key {made.key_id} of {made.user} in {made.project}, roles {', '.join(made.roles)}; it is shown this once",
        out,
    )


def created(key: CreatedKey) -> dict[str, JsonValue]:
    """Returns a new key as JSON, the secret with it."""
    return {
        "key_id": key.key_id,
        "prefix": key.prefix,
        "user": key.user,
        "project": key.project,
        "roles": list(key.roles),
        "key": key.key,
    }


@with_session
def revoke(session: Session, key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")]) -> None:
    """Revokes a key: the next request with it is refused. Revoking again changes nothing."""
    revoked = session.client.revoke_key(key_id)
    session.show(revoked, lambda: [f"key {revoked.prefix}… of {revoked.user} is revoked"])
