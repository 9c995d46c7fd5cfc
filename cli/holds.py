"""`holdfast holds` and `holds resolve`: what is reserved, and saying what became of an unknown outcome."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.money import format_usd


class State(StrEnum):
    """Where a hold may stand."""

    HELD = "held"
    EXECUTING = "executing"
    EXECUTED = "executed"
    COMMITTED = "committed"
    VOIDED = "voided"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(holds)
    group.command(epilog=EXIT_CODES_HELP)(resolve)
    app.add_typer(group, name="holds")


@with_session
def holds(
    session: Session,
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="Only those of this run.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those that stand there.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 50,
) -> None:
    """Lists holds, newest first; `--state unknown` are those that wait for a person."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.holds(run_id=run, state=None if state is None else state.value, count=limit)
    rows = (
        [
            hold.hold_id,
            hold.tool or hold.kind,
            hold.state,
            format_usd(hold.max_cost_nano_usd),
            "" if hold.cost_nano_usd is None else format_usd(hold.cost_nano_usd),
            f"{hold.created_at:%Y-%m-%d %H:%M:%S}",
            f"{hold.run_id} {hold.step}.{hold.try_number}",
        ]
        for hold in found
    )
    session.show_table(
        found, ["hold", "action", "state", "held", "cost", "since", "run, step.try"], rows, "there are no holds"
    )


@with_session
def resolve(
    session: Session,
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="Id of a hold whose outcome is unknown.")],
    happened: Annotated[bool, typer.Option("--happened/--did-not-happen", help="Whether the action took effect.")],
    reason: Annotated[str, typer.Option(help="How that is known; stands in the journal.")],
    cost: Annotated[
        str | None,
        typer.Option(help="What it cost, in dollars. Default: the whole hold if it happened, else nothing."),
    ] = None,
) -> None:
    """Settles a hold whose outcome is unknown, on your word, and lets its run go on."""
    hold = session.client.resolve_hold(
        hold_id, happened=happened, cost_usd=None if cost is None else cost.removeprefix("$"), reason=reason
    )
    spent = format_usd(hold.cost_nano_usd or 0)
    returned = format_usd(max(hold.max_cost_nano_usd - (hold.cost_nano_usd or 0), 0))
    session.show(hold, lambda: [f"hold {hold_id} is {hold.state}: {spent} spent, {returned} returned"])
