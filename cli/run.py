"""`holdfast run`: starts a run, shows it as it happens, and says by its exit code how it ended."""

from __future__ import annotations

import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.following import Signal, followed
from cli.screen import Screen
from cli.session import Session, plain, with_session
from cli.telling import FRAME
from cli.terminal import EXIT_CODES_HELP, ExitCode, note, say
from cli.text import json_line
from holdfast.errors import HoldfastError, NotFound, RequestInvalid
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import CreatedRun, Event, Run

Deadline = Annotated[str | None, typer.Option(help="Time it out then, such as 90, 15m, 2h, 1d. Default: the agent's.")]

_ENDS: Final = {"succeeded": ExitCode.OK, "cancelled": ExitCode.RUN_CANCELLED}
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ANSWERS: Final = {"c": "cancel", "l": "leave", "w": "watch"}
_QUESTION: Final = "[c]ancel the run, [l]eave it running, or [w]atch on? "


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(run)


@with_session
def run(
    session: Session,
    text: Annotated[str, typer.Argument(help="What the agent is asked; - reads it from standard input.")],
    agent: Annotated[str, typer.Option(help="Name of the agent.")],
    project: Annotated[str | None, typer.Option(help="Default: the key's own.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="The run's own cap in dollars. Default and bound: the agent's.")
    ] = None,
    guaranteed: Annotated[bool, typer.Option("--guaranteed", help="Hold the whole budget for it at once.")] = False,
    deadline: Deadline = None,
    follows_latest: Annotated[
        bool,
        typer.Option("--latest-policy", help="Decide each action by the policy that is active then, not by today's."),
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key starts one run, however often it is sent. Default: a new one.")
    ] = None,
    *,
    file: Annotated[
        list[Path] | None, typer.Option(help="A file that its code can be given by its name; may be repeated.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it, print its id, and do not follow it.")] = False,
) -> None:
    """Starts a run and shows it as it happens; Ctrl-C asks whether to cancel it, leave it running, or watch on.

    With --json it prints one JSON object for each event, then the run.
    """
    key = idempotency_key or str(uuid.uuid4())
    with _answer_may_be_lost(key):
        made = _create(
            session,
            read_text(text),
            agent,
            project,
            budget,
            guaranteed,
            deadline,
            key,
            follows_latest=follows_latest,
            files=read_files(file or []),
        )
    if detach:
        session.show(made, lambda: [made.run_id])
        return
    if not session.as_json:
        say(
            f"run {made.run_id}\n{made.agent} version {made.agent_version}, role {made.role} version {made.role_version}, "
            f"for {made.project}/{made.user}, at most {format_usd(made.cap_nano_usd)}"
        )
    with unread_ends(), telling_where(session, made.run_id):
        _watch(session, made.run_id)
    ended = session.client.run(made.run_id)
    session.show(ended, lambda: [outcome(ended)])
    raise typer.Exit(_ENDS.get(ended.status, ExitCode.RUN_FAILED))


def read_text(text: str) -> str:
    """Returns what was given as an argument, or standard input for `-`.

    Raises:
        RequestInvalid: It is empty, or not UTF-8.
    """
    if text == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise RequestInvalid("what came on standard input is not UTF-8") from None
    if not text.strip():
        raise RequestInvalid("there is nothing to say to the agent", remedy='write it like holdfast run "…"')
    return text


def read_files(paths: Sequence[Path]) -> dict[str, bytes]:
    """Reads the files that a run is to be given, each under its own name.

    Raises:
        RequestInvalid: One cannot be read, or two have the same name.
    """
    files: dict[str, bytes] = {}
    for path in paths:
        if path.name in files:
            raise RequestInvalid(f"two files are called {path.name}", remedy="rename one of them")
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise RequestInvalid(f"cannot read {path}: {error.strerror}") from None
    return files


def seconds(text: str) -> int:
    """Reads a duration such as `90`, `15m`, `2h` or `1d`.

    Raises:
        RequestInvalid: It is none.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if match is None or int(match[1]) == 0:
        raise RequestInvalid(f"{text!r} is no duration", remedy="write it like 90, 15m, 2h or 1d")
    return int(match[1]) * _SECONDS[match[2]]


def _create(
    session: Session,
    text: str,
    agent: str,
    project: str | None,
    budget: str | None,
    guaranteed: bool,
    deadline: str | None,
    key: str,
    *,
    follows_latest: bool,
    files: Mapping[str, bytes],
) -> CreatedRun:
    from sdk import HoldfastApiError

    client = session.client
    try:
        return client.create_run(
            agent,
            text,
            project=project,
            cap_usd=None if budget is None else budget.strip().removeprefix("$"),
            guaranteed=guaranteed,
            deadline_s=None if deadline is None else seconds(deadline),
            follows_latest=follows_latest,
            files=files,
            idempotency_key=key,
        )
    except HoldfastApiError as error:
        if error.code != NotFound.code:
            raise
        names = ", ".join(one.name for one in client.agents()) or "none"
        raise NotFound(f"{error.detail} ({error.code})", remedy=f"name an agent that is there: {names}") from None


@contextmanager
def _answer_may_be_lost(key: str) -> Iterator[None]:
    """Says how to ask again without starting anything twice."""
    from sdk import NoAnswer

    again = f"the same command with `--idempotency-key {key}` finds it, and starts nothing twice"
    try:
        yield
    except NoAnswer as lost:
        if lost.sent:
            note(f"the run may have been started: {again}")
        raise
    except KeyboardInterrupt:
        note(f"interrupted before the answer came; the run may have been started: {again}")
        raise typer.Exit(ExitCode.LEFT) from None


@contextmanager
def unread_ends() -> Iterator[None]:
    """Ends the command when nobody reads what it prints any more; the run goes on."""
    try:
        yield
    except BrokenPipeError:
        # what Python would still write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.LEFT) from None


@contextmanager
def telling_where(session: Session, run_id: str) -> Iterator[None]:
    """Says, when the server is lost, that the run does not depend on it being watched."""
    from sdk import NoAnswer

    try:
        yield
    except NoAnswer:
        note(f"the run does not end by this; follow it again with\n  {follow_command(session, run_id)}")
        raise


def follow_command(session: Session, run_id: str) -> str:
    """Returns the command that follows a run again."""
    return f"holdfast logs -f {run_id}{session.flags()}"


def outcome(run: Run) -> str:
    """Returns how a run stands, in one sentence."""
    code = f" ({run.status_code})" if run.status_code else ""
    message = f": {run.status_message}" if run.status_message else ""
    money = f"{format_usd(run.spent_nano_usd)} spent, {format_usd(run.held_nano_usd)} held"
    return f"{run.status}{code}{message}; {money}" + ("; simulated provider" if run.simulated else "")


def _watch(session: Session, run_id: str) -> None:
    """Shows events until the run has ended."""
    screen = Screen(session.flags())
    cancelling = False
    with followed(session.client, run_id) as following:
        for item in following:
            if not isinstance(item, Signal):
                _show(session, screen, item)
                continue
            screen.end()
            answer = "leave" if cancelling or following.pressed > 1 else _ask(run_id)
            following.pressed = 0
            if answer == "leave":
                note(f"the run goes on; follow it again with\n  {follow_command(session, run_id)}")
                raise typer.Exit(ExitCode.LEFT)
            if answer == "cancel":
                cancelling = _cancel(session, run_id)
    screen.end()


def _show(session: Session, screen: Screen, event: Event) -> None:
    if session.as_json:
        say(json_line(plain(event)))
    elif event.type not in FRAME:  # the command says these itself
        screen.event(event)


def _ask(run_id: str) -> str:
    """Asks what Ctrl-C was meant to do; a second one, or nobody there to answer, leaves the run alone."""
    if not sys.stdin.isatty():
        note(f"interrupted: run {run_id} is left running")
        return "leave"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            sys.stderr.write(f"\n{_QUESTION}")
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                return "leave"
            if (answer := _ANSWERS.get(line.strip().lower()[:1])) is not None:
                return answer
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return "leave"
    finally:
        signal.signal(signal.SIGINT, before)


def _cancel(session: Session, run_id: str) -> bool:
    """Asks the run to stop; that this may fail is no reason to stop watching."""
    from cli.session import api_errors

    try:
        with api_errors(session):
            session.client.cancel_run(run_id)
    except HoldfastError as error:
        note(f"it could not be cancelled, and goes on: {error.message}")
        return False
    note("asked it to stop: what it has begun is settled; Ctrl-C once more leaves it")
    return True
