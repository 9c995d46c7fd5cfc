"""`holdfast stop`, `stops` and `stops lift`: the emergency stop of a tenant, an agent, a role or a tool."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import StandingStop, Stop
    from sdk.types import StopKind

Reason = Annotated[str, typer.Option(help="Stands in the record.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(stop)
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(stops)
    group.command(epilog=EXIT_CODES_HELP)(lift)
    app.add_typer(group, name="stops")


@with_session
def stop(
    session: Session,
    reason: Annotated[str, typer.Option(help="Quoted wherever something is refused, also to the model.")],
    tenant: Annotated[bool, typer.Option("--tenant", help="Stop the whole tenant.")] = False,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Stop this agent.")] = None,
    role: Annotated[str | None, typer.Option(metavar="NAME", help="Stop the agents of this role.")] = None,
    tool: Annotated[str | None, typer.Option(metavar="NAME", help="Stop this tool.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Stop the whole tenant without asking.")] = False,
) -> None:
    """Emergency stop: from now on nothing of it goes outside, whatever was allowed before. `holdfast stops lift` ends it.

    It stops agents, not Holdfast: the stack is ended by `holdfast down`.
    """
    kind, name = _scope(tenant=tenant, agent=agent, role=role, tool=tool)
    if kind == "tenant" and not yes and sys.stdin.isatty():
        who = session.client.me().tenant
        question = f"Stop every agent of the tenant {who}? Runs that are refused something end as failed."
        typer.confirm(question, abort=True, err=True)
    made = session.client.stop(kind, name, reason=reason)
    session.show(made, lambda: _told(made))


def _scope(*, tenant: bool, agent: str | None, role: str | None, tool: str | None) -> tuple[StopKind, str]:
    given: list[tuple[StopKind, str]] = [("tenant", "")] if tenant else []
    named: tuple[tuple[StopKind, str | None], ...] = (("agent", agent), ("role", role), ("tool", tool))
    given += [(kind, name) for kind, name in named if name is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            "say what to stop: one of --tenant, --agent, --role and --tool (the stack itself is ended by `holdfast down`)"
        )
    return given[0]


def _told(made: StandingStop) -> Iterator[str]:
    yield f"{_on(made)} is stopped: {made.reason}"
    if made.was_on:
        yield f"it was stopped before, by {made.actor} at {made.created_at:%Y-%m-%d %H:%M:%S}; nothing is changed"
    if made.outside:
        actions = "1 action" if made.outside == 1 else f"{made.outside} actions"
        yield f"{actions} had gone outside before and cannot be called back: `holdfast holds --state executing`"
    yield f"lift it with `holdfast stops lift {made.stop_id} --reason …`"


def _on(one: Stop) -> str:
    return f"{one.scope_kind} {one.scope_name}".strip()


@with_session
def stops(
    session: Session,
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that are lifted.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 50,
) -> None:
    """Lists the emergency stops that are on, newest first."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.stops(lifted=every, count=limit)
    headings = ["stop", "on", "since", "by", "reason", *(["lifted"] if every else [])]
    session.show_table(found, headings, (_row(one, every=every) for one in found), "nothing is stopped")


def _row(one: Stop, *, every: bool) -> list[str]:
    row = [one.stop_id, _on(one), f"{one.created_at:%Y-%m-%d %H:%M:%S}", one.actor, one.reason]
    if every:
        lifted = (
            "" if one.lifted_at is None else f"{one.lifted_at:%Y-%m-%d %H:%M:%S} by {one.lifted_by}: {one.lift_reason}"
        )
        row.append(lifted)
    return row


@with_session
def lift(
    session: Session,
    stop_id: Annotated[str, typer.Argument(metavar="STOP", help="Id of a stop.")],
    reason: Reason,
) -> None:
    """Lifts a stop: what is asked from now on is decided as before. Runs that it ended are started anew."""
    lifted = session.client.lift_stop(stop_id, reason=reason)
    when = f"{lifted.lifted_at:%Y-%m-%d %H:%M:%S}" if lifted.lifted_at else ""
    session.show(
        lifted, lambda: [f"the stop on {_on(lifted)} was lifted by {lifted.lifted_by} on {when}: {lifted.lift_reason}"]
    )
