"""`holdfast tenants list|create`: for whoever runs the platform, with an operator's key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.keys import created
from cli.session import KeyOut, Session, check_out, with_session
from cli.terminal import EXIT_CODES_HELP

if TYPE_CHECKING:
    from pydantic import JsonValue


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="Tenants, with an operator's key.", no_args_is_help=True)
    group.command("list", epilog=EXIT_CODES_HELP)(list_)
    group.command(epilog=EXIT_CODES_HELP)(create)
    app.add_typer(group, name="tenants")


@with_session
def list_(session: Session) -> None:
    """Lists tenants, by slug."""
    session.operates = True
    found = session.client.tenants()
    rows = ([one.slug, one.name, one.time_zone, f"{one.created_at:%Y-%m-%d %H:%M:%S}", one.tenant_id] for one in found)
    session.show_table(found, ["tenant", "name", "time zone", "created", "id"], rows, "there are no tenants")


@with_session
def create(
    session: Session,
    slug: Annotated[str, typer.Argument(help="Lower-case letters, digits and -.")],
    name: Annotated[str | None, typer.Option(help="What people call it. Default: the slug.")] = None,
    time_zone: Annotated[str, typer.Option(help="Such as Europe/Paris; windows of caps follow it.")] = "UTC",
    out: KeyOut = None,
) -> None:
    """Makes a tenant with a project `default`, a user `owner` and their key, which is shown this once. It has no cap yet."""
    out = check_out(out)
    session.operates = True
    made = session.client.create_tenant(slug, name or slug, time_zone=time_zone)
    answer: dict[str, JsonValue] = {"tenant_id": made.tenant_id, "slug": made.slug, "key": created(made.key)}
    session.show_key(
        answer,
        made.key.key,
        f"tenant {made.slug} was made. This is its owner's key, shown this once. It cannot spend before it has a cap: "
        "with that key, `holdfast caps set tenant usd 5 --reason …`",
        out,
    )
