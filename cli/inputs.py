"""`holdfast input`, `steer`, `pause` and `resume`: telling a run something while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.run import read_text
from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP

if TYPE_CHECKING:
    from sdk import SentInput

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
Text = Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("input", epilog=EXIT_CODES_HELP)(input_)
    app.command(epilog=EXIT_CODES_HELP)(steer)
    app.command(epilog=EXIT_CODES_HELP)(pause)
    app.command(epilog=EXIT_CODES_HELP)(resume)


@with_session
def input_(session: Session, run_id: RunId, text: Text) -> None:
    """Says something to a run, which it hears when its present turn is over."""
    _show(session, session.client.send_input(run_id, "followup", read_text(text)), "will hear it after this turn")


@with_session
def steer(session: Session, run_id: RunId, text: Text) -> None:
    """Says something to a run, which it hears at its next step."""
    _show(session, session.client.send_input(run_id, "steer", read_text(text)), "will hear it at its next step")


@with_session
def pause(session: Session, run_id: RunId) -> None:
    """Makes a run stand still: what it has begun is settled, nothing new begins until `holdfast resume`."""
    _show(session, session.client.send_input(run_id, "pause"), "will stand still")


@with_session
def resume(session: Session, run_id: RunId) -> None:
    """Lets a paused run go on."""
    _show(session, session.client.send_input(run_id, "resume"), "will go on")


def _show(session: Session, sent: SentInput, what: str) -> None:
    session.show(sent, lambda: [f"run {sent.run_id} {what} (input {sent.seq})"])
