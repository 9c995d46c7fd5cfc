"""`holdfast caps`, `caps set|history|windows|zone`: limits, what is used of them, and changing them with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.errors import NotFound, RequestInvalid
from holdfast.ledger.windows import require_window, rolling_hours
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import Cap
    from sdk.types import Unit as SdkUnit

_MONEY: Final = "nano_usd"
_TENANT: Final = "tenant"


class Unit(StrEnum):
    """What a cap counts."""

    USD = "usd"
    TOKENS = "tokens"
    CALLS = "calls"
    SLOTS = "slots"


_TOTAL: Final = "total"


def _window(text: str) -> str:
    try:
        return require_window(text)
    except ValueError as none:
        raise typer.BadParameter(str(none)) from None


_SCOPES: Final = (
    "tenant, project:SLUG, user:NAME, role:NAME, run:ID, user_project:USER/PROJECT, user_role:USER/ROLE or "
    "project_role:PROJECT/ROLE"
)
_COUNT_DEFAULT: Final = 20

ScopeArgument = Annotated[str, typer.Argument(help=f"{_SCOPES}.")]
UnitArgument = Annotated[Unit, typer.Argument(help="What is counted.")]
_window_option: Final = partial(typer.Option, parser=_window, metavar="total|hour|day|month|24h")
WindowOption = Annotated[
    str,
    _window_option(
        help="For how long what was used counts: for ever, within an hour, day or month of the tenant's time zone (see `caps "
        "zone`), or for so many hours back from any moment, 1h to 744h."
    ),
]
Count = Annotated[int, typer.Option("--limit", min=1, max=1_000, help="Most of them to show.")]

_UNITS: Final[Mapping[Unit, SdkUnit]] = MappingProxyType(
    {Unit.USD: "nano_usd", Unit.TOKENS: "tokens", Unit.CALLS: "calls", Unit.SLOTS: "slots"}
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(caps)
    group.command("set", epilog=EXIT_CODES_HELP)(set_)
    group.command(epilog=EXIT_CODES_HELP)(history)
    group.command(epilog=EXIT_CODES_HELP)(windows)
    group.command(epilog=EXIT_CODES_HELP)(zone)
    app.add_typer(group, name="caps")


def amount(unit: str, number: int | None) -> str:
    """Returns an amount in a cap's unit; None is no limit."""
    if number is None:
        return "unlimited"
    return format_usd(number) if unit == _MONEY else str(number)


def scope_of(kind: str, name: str | None) -> str:
    """Returns what a cap is on, as `caps set` takes it."""
    return kind if kind == _TENANT else f"{kind}:{name or '?'}"


def counted(unit: str, window: str) -> str:
    """Returns what a cap counts and for how long, such as `money per day`."""
    return ("money" if unit == _MONEY else unit) + ("" if window == _TOTAL else f" per {window}")


@with_session
def caps(
    session: Session,
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="The caps of this run. Default: all that are not of a run.")] = None,
) -> None:
    """Lists caps: limit, used, held and free in the window in force, and when that ends or what leaves it next (UTC)."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.caps(run_id=run)
    session.show_table(found, _HEADINGS, map(_row, found), "there are no caps, so nothing can be spent")


_HEADINGS: Final = ["on", "counts", "limit", "used", "held", "free", "resets", "told", "debt"]


def _row(cap: Cap) -> list[str]:
    return [
        scope_of(cap.scope_kind, cap.scope_name),
        counted(cap.unit, cap.window),
        amount(cap.unit, None if cap.unlimited else cap.limit_amount),
        amount(cap.unit, cap.committed + cap.debt),
        amount(cap.unit, cap.reserved),
        amount(cap.unit, cap.available),
        _resets(cap),
        ", ".join(f"{percent} %" for percent in cap.thresholds_passed) or "-",
        amount(cap.unit, cap.debt) if cap.debt else "",
    ]


def _resets(cap: Cap) -> str:
    """Returns when nothing of it counts any more, or of a rolling cap what leaves it next."""
    if rolling_hours(cap.window) is None:
        return _at(cap.ends_at) or "never"
    return "-" if cap.leaves_at is None else f"{amount(cap.unit, cap.leaves)} at {_at(cap.leaves_at)}"


def _at(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


@with_session
def set_(
    session: Session,
    scope: ScopeArgument,
    unit: UnitArgument,
    limit: Annotated[str, typer.Argument(help="In dollars or in the unit, or the word unlimited.")],
    reason: Annotated[str, typer.Option(help="Stands in the journal.")],
    window: WindowOption = _TOTAL,
    threshold: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=100,
            help="Percent of the limit to be told once a window; repeat it for more. Default: as they are, at first "
            "50, 80 and 100.",
        ),
    ] = None,
) -> None:
    """Sets a limit, making the cap if need be. Lowering one stops new holds, never running ones.

    A scope has one cap for each unit and window, and all of them apply.
    """
    given: dict[str, Any] = {"unlimited": True}  # Any: one argument of set_cap or another
    if limit != "unlimited":
        given = {"limit_usd": limit.removeprefix("$")} if unit is Unit.USD else {"limit_amount": _whole(limit)}
    kind, name = _scope(scope)
    cap = session.client.set_cap(
        kind, name, unit=_UNITS[unit], window=window, thresholds=threshold or None, reason=reason, **given
    )
    on = scope_of(cap.scope_kind, cap.scope_name) + ("" if window == _TOTAL else f" per {window}")
    limited = amount(cap.unit, None if cap.unlimited else cap.limit_amount)
    until = "" if cap.ends_at is None or rolling_hours(window) is not None else f" until {_at(cap.ends_at)} UTC"
    session.show(cap, lambda: [f"the cap on {on} is {limited}, {amount(cap.unit, cap.available)} free{until}"])


@with_session
def history(
    session: Session,
    scope: ScopeArgument,
    unit: UnitArgument,
    window: WindowOption = _TOTAL,
    count: Count = _COUNT_DEFAULT,
) -> None:
    """Lists who has set a cap's limit, from what to what, when (UTC) and why, the newest first."""
    cap = _find(session, scope, unit, window)
    changes = session.client.cap_changes(cap.cap_id, count=count)
    rows = (
        [
            f"{change.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            change.actor,
            "-" if change.made else amount(cap.unit, change.from_amount),
            amount(cap.unit, change.to_amount),
            amount(cap.unit, change.debt_paid) if change.debt_paid else "",
            change.reason,
        ]
        for change in changes
    )
    headings = ["when", "who", "from", "to", "debt paid", "why"]
    session.show_table(changes, headings, rows, "the journal has no change of this cap any more")


@with_session
def windows(
    session: Session,
    scope: ScopeArgument,
    unit: UnitArgument,
    window: Annotated[str, _window_option(help="Which of the caps on it.")] = "day",
    count: Count = _COUNT_DEFAULT,
) -> None:
    """Lists the windows of a cap that were used, the newest first: when each began and ended (UTC), and what was used.

    Of a rolling cap these are its hours.
    """
    cap = _find(session, scope, unit, window)
    found = session.client.cap_windows(cap.cap_id, count=count)
    rows = (
        [
            _at(one.starts_at) or "always",
            _at(one.ends_at) or "never",
            amount(one.unit, None if one.unlimited else one.limit_amount),
            amount(one.unit, one.committed + one.debt),
            amount(one.unit, one.reserved),
            amount(one.unit, one.debt) if one.debt else "",
        ]
        for one in found
    )
    session.show_table(found, ["from", "to", "limit", "used", "held", "debt"], rows, "there is no window yet")


@with_session
def zone(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Such as Europe/Paris. Default: shows it.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is set; stands in the decision log.")] = None,
) -> None:
    """Shows or sets the tenant's time zone, by which windows of caps begin. A window that has begun ends as announced."""
    if name is None:
        tenant = session.client.tenant()
    elif not reason:
        raise RequestInvalid("a time zone is set for a reason", remedy="add --reason")
    else:
        tenant = session.client.set_time_zone(name, reason=reason)
    session.show(tenant, lambda: [f"windows of {tenant.slug} follow {tenant.time_zone}"])


def _find(session: Session, scope: str, unit: Unit, window: str) -> Cap:
    """Returns the window in force of the cap that the arguments name.

    Raises:
        NotFound: There is none.
    """
    kind, name = _scope(scope)
    for cap in session.client.caps(scope_kind=kind, scope_name=name):
        if (cap.unit, cap.window) == (_UNITS[unit], window):
            return cap
    raise NotFound(
        f"there is no cap on {scope} that counts {counted(_UNITS[unit], window)}", remedy="see `holdfast caps`"
    )


def _whole(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise RequestInvalid(f"{text!r} is no whole number", remedy="write a number, or the word unlimited")
    return int(text)


def _scope(text: str) -> tuple[Any, str]:  # Any: a literal of the SDK's, which is checked here
    from sdk.types import ScopeKind

    kind, _, name = text.partition(":")
    if kind not in get_args(ScopeKind) or bool(name) == (kind == _TENANT):
        raise RequestInvalid(
            f"{text!r} is nothing that a cap can be on",
            remedy=f"write {_SCOPES}",
        )
    return kind, name
