"""`holdfast audit erase`, `retention` and `legal-hold`: what of the decision log goes, and when."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, note
from holdfast.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import Erasure, LegalHold, PlacedLegalHold, Retention

_LOOK_S: Final = 0.5
_TELL_S: Final = 5.0
Reason = Annotated[str, typer.Option(help="Stands in the record.")]


def register(audit: typer.Typer) -> None:
    """Adds the commands to `holdfast audit`."""
    audit.command(epilog=EXIT_CODES_HELP)(erase)
    audit.command(epilog=EXIT_CODES_HELP)(erasures)
    retention = typer.Typer(
        help="For how long what was evaluated is kept.", epilog=EXIT_CODES_HELP, no_args_is_help=True
    )
    retention.command(name="show", epilog=EXIT_CODES_HELP)(show)
    retention.command(name="set", epilog=EXIT_CODES_HELP)(set_)
    audit.add_typer(retention, name="retention")
    holds = typer.Typer(
        help="Legal holds: while one stands, nothing of it is erased or deleted.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
    )
    holds.command(epilog=EXIT_CODES_HELP)(place)
    holds.command(name="list", epilog=EXIT_CODES_HELP)(list_)
    holds.command(epilog=EXIT_CODES_HELP)(lift)
    audit.add_typer(holds, name="legal-hold")


@with_session
def erase(
    session: Session,
    *,
    reason: Reason,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="The runs of this user.")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="This run.")] = None,
    tenant: Annotated[bool, typer.Option("--tenant", help="All runs of the tenant.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
) -> None:
    """Erases the personal values in the decision records of ended runs, for good; records, log and proofs stay whole.

    Exit code 1 if something had to be left: of runs that have not ended, or on legal hold.
    """
    if [user is not None, run is not None, tenant].count(True) != 1:
        raise typer.BadParameter("say what to erase: one of --user, --run and --tenant")
    if not yes and sys.stdin.isatty():
        what = f"user {user}" if user is not None else f"run {run}" if run is not None else "the whole tenant"
        question = f"Erase the personal values in the decision records of {what}? This cannot be taken back."
        typer.confirm(question, abort=True, err=True)
    erasure = session.client.erase(user=user, run_id=run, tenant=tenant, reason=reason)
    if wait:
        erasure = _wait(session, erasure)
    session.show(erasure, lambda: _erased(erasure))
    if erasure.held or erasure.open:
        raise typer.Exit(1)


def _wait(session: Session, erasure: Erasure) -> Erasure:
    tell_at = time.monotonic() + _TELL_S
    while erasure.ended_at is None:
        time.sleep(_LOOK_S)
        erasure = session.client.erasure(erasure.erasure_id)
        if time.monotonic() > tell_at and erasure.ended_at is None:
            note(f"{erasure.runs} runs erased so far")
            tell_at = time.monotonic() + _TELL_S
    return erasure


def _erased(erasure: Erasure) -> Iterator[str]:
    state = "under way" if erasure.ended_at is None else "done"
    yield f"erasure {erasure.erasure_id} is {state}: personal values of {erasure.records} records in {erasure.runs} runs are gone"
    if erasure.held:
        yield f"{erasure.held} runs are left, on legal hold: `holdfast audit legal-hold list`"
    if erasure.open:
        yield f"{erasure.open} runs are left, because they have not ended: erase again when they have"


@with_session
def erasures(session: Session, *, limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 50) -> None:
    """Lists erasures, newest first."""
    found = session.client.erasures(count=limit)
    session.show(found, lambda: [_line(each) for each in found] or ["nothing was erased yet"])


def _line(each: Erasure) -> str:
    of = f"run {each.run_id}" if each.run_id else f"user {each.user}" if each.user else "the tenant"
    state = "under way" if each.ended_at is None else "done"
    left = f", {each.held} held, {each.open} open" if each.held or each.open else ""
    return f"{each.erasure_id}  {each.asked_at:%Y-%m-%d %H:%M}  {state}  {of}: {each.records} records of {each.runs} runs{left}"


@with_session
def show(session: Session) -> None:
    """Shows for how long what was evaluated is kept, and how far the deleting is."""
    found = session.client.retention()
    session.show(found, lambda: _kept(found))


@with_session
def set_(
    session: Session,
    days: Annotated[int | None, typer.Argument(min=1, help="For how many days.")] = None,
    *,
    forever: Annotated[bool, typer.Option("--forever", help="Delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Sets for how long what was evaluated is kept. What is older is deleted for good; hashes, verdicts and proofs stay."""
    if (days is None) != forever:
        raise RequestInvalid("say for how long: a number of days, or --forever")
    if days is not None and not yes and sys.stdin.isatty():
        question = f"Delete what was evaluated in decisions that are older than {days} days? This cannot be taken back."
        typer.confirm(question, abort=True, err=True)
    found = session.client.set_retention(days)
    session.show(found, lambda: _kept(found))


def _kept(found: Retention) -> Iterator[str]:
    yield "kept       for ever" if found.days is None else f"kept       for {found.days} days"
    if found.set_at is not None:
        yield f"set        by {found.set_by}, {found.set_at:%Y-%m-%d %H:%M:%S %Z}"
    yield f"deleted    {found.records} records"
    if found.before is not None:
        yield f"under way  what is older than {found.before:%Y-%m-%d %H:%M:%S %Z}: {found.pass_records} records so far"
    if found.through is not None:
        yield f"through    {found.through:%Y-%m-%d %H:%M:%S %Z}"
    if found.kept:
        yield f"left       {found.kept} records, of runs that have not ended or on legal hold"


@with_session
def place(
    session: Session,
    *,
    reason: Reason,
    run: Annotated[str | None, typer.Option(metavar="ID", help="On this run. Default: on the whole tenant.")] = None,
) -> None:
    """Places a legal hold: from now on nothing of it is erased or deleted. `holdfast audit legal-hold lift` ends it."""
    made = session.client.place_legal_hold(run_id=run, reason=reason)
    session.show(made, lambda: _placed(made))


def _placed(made: PlacedLegalHold) -> Iterator[str]:
    on = f"run {made.run_id}" if made.run_id else "the tenant"
    yield f"{on} is on legal hold: {made.reason}"
    if made.stood:
        yield f"it was before, by {made.placed_by} at {made.placed_at:%Y-%m-%d %H:%M:%S %Z}; nothing is changed"
    yield f"lift it with `holdfast audit legal-hold lift {made.legal_hold_id} --reason …`"


@with_session
def list_(
    session: Session,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are lifted.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 50,
) -> None:
    """Lists the legal holds that stand, newest first."""
    found = session.client.legal_holds(lifted=every, count=limit)
    session.show(found, lambda: [_hold_line(each) for each in found] or ["nothing is on legal hold"])


def _hold_line(each: LegalHold) -> str:
    on = f"run {each.run_id}" if each.run_id else "the tenant"
    lifted = (
        ""
        if each.lifted_at is None
        else f"; lifted {each.lifted_at:%Y-%m-%d %H:%M} by {each.lifted_by}: {each.lift_reason}"
    )
    return f"{each.legal_hold_id}  {each.placed_at:%Y-%m-%d %H:%M}  {on}, by {each.placed_by}: {each.reason}{lifted}"


@with_session
def lift(
    session: Session,
    legal_hold_id: Annotated[str, typer.Argument(metavar="ID", help="The legal hold.")],
    *,
    reason: Reason,
) -> None:
    """Lifts a legal hold."""
    found = session.client.lift_legal_hold(legal_hold_id, reason=reason)
    session.show(found, lambda: [_hold_line(found)])
