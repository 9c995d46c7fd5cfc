"""`holdfast spend`: what was spent, by whatever a run has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from zoneinfo import ZoneInfo

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, note, say, write
from holdfast.errors import RequestInvalid
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import Spend, Spent

_DAYS: Final = {"d": 1, "w": 7}
_DAYS_MAX: Final = 36_500


class Sort(StrEnum):
    """In which order groups stand."""

    GROUP = "group"
    COST = "cost"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(spend)


@with_session
def spend(
    session: Session,
    *,
    by: Annotated[
        str,
        typer.Option(
            help="Group by these, separated by commas: tenant, project, user, run, agent, role, model, tool, kind, day, simulated."
        ),
    ] = "agent,model",
    since: Annotated[str | None, typer.Option(help="The last days, today among them, such as 7d or 2w.")] = None,
    first_day: Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day, YYYY-MM-DD.")] = None,
    last_day: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day, which counts, too.")] = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    role: Annotated[str | None, typer.Option(help="Only of this role.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as llm.call.")] = None,
    simulated: Annotated[
        bool | None, typer.Option("--simulated/--real", help="Only what a simulated provider executed, or none did.")
    ] = None,
    sort: Annotated[Sort, typer.Option(help="By the groups' names, or the dearest first.")] = Sort.COST,
    limit: Annotated[int | None, typer.Option(min=1, help="Most groups. Default: all.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all groups as CSV, by name.")] = False,
) -> None:
    """Shows what was spent: what settled holds came to, in the days of the tenant's time zone."""
    dimensions = [name.strip() for name in by.split(",") if name.strip()]
    equal = {
        "project": project, "user": user, "run": run, "agent": agent, "role": role, "model": model, "tool": tool, "kind": kind,
        "simulated": simulated,
    }  # fmt: skip
    asked: dict[str, Any] = {
        name: value for name, value in equal.items() if value is not None
    }  # Any: text, or a choice
    asked |= _days(session, since, first_day, last_day)
    if as_csv:
        if session.as_json or limit is not None:
            raise typer.BadParameter("--csv prints all groups and nothing else: leave --json and --limit out")
        for piece in session.client.spend_csv(dimensions, **asked):
            write(piece)
        return
    found = session.client.spend(dimensions, dearest_first=sort is Sort.COST, count=limit, **asked)
    if session.as_json or found.total.holds == 0:
        session.show(found, lambda: ["nothing was spent"])
        return
    headings = [*found.group_by, "calls", "tokens in", "cached", "tokens out", "cost"]
    session.show_table([found], headings, _rows(found), "")
    if found.total.simulated_nano_usd:
        say(f"{format_usd(found.total.simulated_nano_usd)} of it is simulated: nobody bills it")
    if limit is not None and len(found.groups) == limit:
        note("the total is of all groups, also of those that --limit leaves out")


def _rows(found: Spend) -> Iterator[list[str]]:
    for spent in found.groups:
        yield [*(value or "-" for value in spent.group.values()), *_amounts(spent)]
    names = ["total", *[""] * (len(found.group_by) - 1)] if found.group_by else []
    yield [*names, *_amounts(found.total)]


def _amounts(spent: Spent) -> list[str]:
    tokens = (spent.calls, spent.input_tokens, spent.cached_tokens, spent.output_tokens)
    return [*(str(count) for count in tokens), format_usd(spent.cost_nano_usd)]


def _days(session: Session, since: str | None, first_day: str | None, last_day: str | None) -> dict[str, date]:
    if since is None:
        given = {"first_day": first_day, "last_day": last_day}
        return {name: _day(text) for name, text in given.items() if text is not None}
    if first_day is not None or last_day is not None:
        raise typer.BadParameter("--since counts back from today: leave --from and --to out")
    matched = re.fullmatch(r"([1-9][0-9]{0,4})([dw])", since)
    days = int(matched[1]) * _DAYS[matched[2]] if matched else 0
    if not 0 < days <= _DAYS_MAX:
        raise RequestInvalid(f"--since: {since!r} is no number of days", remedy="write it like 7d or 2w")
    today = datetime.now(UTC).astimezone(ZoneInfo(session.client.tenant().time_zone)).date()
    return {"first_day": today - timedelta(days=days - 1), "last_day": today}


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestInvalid(f"{text!r} is no day", remedy="write it like 2026-03-01") from None
