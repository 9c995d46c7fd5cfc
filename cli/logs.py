"""`holdfast logs`: a run's timeline, as far as it goes or until it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.following import Signal, followed
from cli.live_text import quoted
from cli.run import follow_command, telling_where, unread_ends
from cli.session import Session, plain, with_session
from cli.telling import ALWAYS_TOLD, tell
from cli.terminal import EXIT_CODES_HELP, ExitCode, fitted, note, styled, write
from cli.text import json_line, one_line
from holdfast.errors import RequestInvalid

if TYPE_CHECKING:
    from sdk import Event

_CHANNEL_WIDTH = 9
_EVENT_ID = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(logs)


@with_session
def logs(
    session: Session,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this channel, such as decision, budget, answer; may be repeated. With --json, its live pieces, too."
        ),
    ] = None,
    after: Annotated[str | None, typer.Option(help="Begin after the event with this id.")] = None,
) -> None:
    """Prints what has happened in a run, event by event; Ctrl-C leaves the run alone.

    With --json it prints one JSON object for each event.
    """
    wanted = tuple(channel or ())
    if after is not None and not _EVENT_ID.fullmatch(after):
        raise RequestInvalid(f"{after!r} is no id of an event", remedy="take one that --json has shown, such as 12")
    printer = _Printer(session)
    with unread_ends(), telling_where(session, run_id):
        for event in _following(session, run_id, wanted, after) if follow else _so_far(session, run_id, after):
            named = not wanted or event.channel in wanted or event.type in ALWAYS_TOLD
            if named and (event.durable or (wanted and session.as_json)):
                printer.show(event)


def _so_far(session: Session, run_id: str, after: str | None) -> Iterator[Event]:
    """Yields what there is now; the stream of a run that goes on would not end by itself."""
    newest = session.client.run(run_id).newest_event
    if after is not None and int(after.partition(".")[0]) >= newest:
        return
    for event in session.client.events(run_id, after=after):
        yield event
        if event.durable and event.seq >= newest:
            return


def _following(session: Session, run_id: str, wanted: tuple[str, ...], after: str | None) -> Iterator[Event]:
    with followed(session.client, run_id, after=after, channels=wanted) as following:
        for item in following:
            if isinstance(item, Signal):
                note(f"the run goes on; follow it again with\n  {follow_command(session, run_id)}")
                raise typer.Exit(ExitCode.LEFT)
            yield item


class _Printer:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._day = ""

    def show(self, event: Event) -> None:
        """Prints an event.

        Raises:
            OSError: Nobody reads it any more.
        """
        if self._session.as_json:
            write(f"{json_line(plain(event))}\n")
            return
        day = f"{event.time:%Y-%m-%d}"
        if day != self._day:
            self._day = day
            write(styled(f"── {day}, times in UTC", "dim") + "\n")
        told = tell(event)
        for part in fitted(f"{event.time:%H:%M:%S}  {event.channel:<{_CHANNEL_WIDTH}}  {one_line(told.line)}"):
            write(f"{styled(part, told.style)}\n")
        for kind, text in (("thinking", told.thinking), ("tool" if event.channel == "tool" else "answer", told.text)):
            for line in quoted(text, kind):
                write(f"{line}\n")
        for command in told.commands:
            write(f"{'':<{10 + _CHANNEL_WIDTH}}  {command}{self._session.flags()}\n")
