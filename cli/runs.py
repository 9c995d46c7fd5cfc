"""`holdfast runs`, `show` and `cancel`: what runs, what became of it, and stopping it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, width
from cli.waterfall import Waterfall
from holdfast.money import format_usd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import Run

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, which is its workflow's id as well.")]


class Status(StrEnum):
    """Where a run may stand."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    TERMINATED = "terminated"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(runs)
    app.command(epilog=EXIT_CODES_HELP)(show)
    app.command(epilog=EXIT_CODES_HELP)(cancel)


def _status(run: Run) -> str:
    return f"{run.status} ({run.status_code})" if run.status_code else run.status


@with_session
def runs(
    session: Session,
    status: Annotated[Status | None, typer.Option(help="Only those that stand there.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only those of this agent.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 20,
) -> None:
    """Lists runs, newest first."""
    found = session.client.runs(status=None if status is None else status.value, agent=agent, count=limit)
    rows = (
        [
            run.run_id,
            _status(run),
            run.agent,
            f"{run.project}/{run.user}",
            f"{run.created_at:%Y-%m-%d %H:%M:%S}",
            format_usd(run.spent_nano_usd),
            format_usd(run.held_nano_usd),
            "simulated" if run.simulated else "",
        ]
        for run in found
    )
    headings = ["run", "status", "agent", "project/user", "created", "spent", "held", ""]
    session.show_table(found, headings, rows, "there are no runs")


@with_session
def show(session: Session, run_id: RunId) -> None:
    """Shows a run: where it stands, and every step with when, how long, verdict, hold and cost."""
    client = session.client
    run, decisions, holds = client.run(run_id), client.decisions(run_id=run_id)[::-1], client.holds(run_id=run_id)[::-1]
    if session.as_json:
        answer = {"run": run, "inputs": client.run_inputs(run_id), "decisions": decisions, "holds": holds}
        session.show(answer, list)
        return
    gated = any(one.approval_id for one in decisions)
    waterfall = Waterfall(
        run=run,
        decisions=decisions,
        holds={hold.hold_id: hold for hold in holds},
        approvals={one.approval_id: one for one in client.approvals(run_id=run_id)} if gated else {},
        now=datetime.now(UTC),
        width=width(),
        flags=session.flags(),
    )
    session.show(run, lambda: [*_heading(run), "", *waterfall.lines()])


def _heading(run: Run) -> Iterator[str]:
    cap = "no cap of its own" if run.cap_nano_usd is None else f"of {format_usd(run.cap_nano_usd)}"
    for name, value in {
        "run": run.run_id + (" (simulated provider)" if run.simulated else ""),
        "status": _status(run),
        "agent": f"{run.agent} version {run.agent_version}, role {run.role} version {run.role_version}",
        "for": f"{run.project}/{run.user}",
        "created": f"{run.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "ended": "not yet" if run.ended_at is None else f"{run.ended_at:%Y-%m-%d %H:%M:%S %Z}",
        "money": f"{format_usd(run.spent_nano_usd)} spent, {format_usd(run.held_nano_usd)} held, {cap}",
    }.items():
        yield f"{name:<9}{value}"


@with_session
def cancel(session: Session, run_id: RunId) -> None:
    """Asks a run and all that it started to stop: what is begun is settled, nothing new begins."""
    run = session.client.cancel_run(run_id)
    session.show(
        run,
        lambda: [
            f"run {run_id} had ended: {_status(run)}"
            if run.ended_at
            else f"run {run_id} was asked to stop ({run.status})"
        ],
    )
