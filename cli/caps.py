"""`holdfast caps` and `caps set`: limits, what is used of them, and changing them with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.errors import RequestInvalid
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


_UNITS: Final[Mapping[Unit, SdkUnit]] = MappingProxyType(
    {Unit.USD: "nano_usd", Unit.TOKENS: "tokens", Unit.CALLS: "calls", Unit.SLOTS: "slots"}
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(caps)
    group.command("set", epilog=EXIT_CODES_HELP)(set_)
    app.add_typer(group, name="caps")


def amount(unit: str, number: int | None) -> str:
    """Returns an amount in a cap's unit; None is no limit."""
    if number is None:
        return "unlimited"
    return format_usd(number) if unit == _MONEY else str(number)


def scope_of(kind: str, name: str | None) -> str:
    """Returns what a cap is on, as `caps set` takes it."""
    return kind if kind == _TENANT else f"{kind}:{name or '?'}"


@with_session
def caps(
    session: Session,
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="The caps of this run. Default: all that are not of a run.")] = None,
) -> None:
    """Lists caps: limit, used, held and free."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.caps(run_id=run)
    session.show_table(found, _HEADINGS, map(_row, found), "there are no caps, so nothing can be spent")


_HEADINGS: Final = ["on", "counts", "limit", "used", "held", "free", "debt"]


def _row(cap: Cap) -> list[str]:
    return [
        scope_of(cap.scope_kind, cap.scope_name),
        "money" if cap.unit == _MONEY else cap.unit,
        amount(cap.unit, None if cap.unlimited else cap.limit_amount),
        amount(cap.unit, cap.committed + cap.debt),
        amount(cap.unit, cap.reserved),
        amount(cap.unit, cap.available),
        amount(cap.unit, cap.debt) if cap.debt else "",
    ]


@with_session
def set_(
    session: Session,
    scope: Annotated[
        str, typer.Argument(help="tenant, project:SLUG, user:NAME, role:NAME, run:ID or user_project:USER/PROJECT.")
    ],
    unit: Annotated[Unit, typer.Argument(help="What is counted.")],
    limit: Annotated[str, typer.Argument(help="In dollars or in the unit, or the word unlimited.")],
    reason: Annotated[str, typer.Option(help="Stands in the journal.")],
) -> None:
    """Sets a limit, making the cap if need be. Lowering one stops new holds, never running ones."""
    given: dict[str, Any] = {"unlimited": True}  # Any: one argument of set_cap or another
    if limit != "unlimited":
        given = {"limit_usd": limit.removeprefix("$")} if unit is Unit.USD else {"limit_amount": _whole(limit)}
    kind, name = _scope(scope)
    cap = session.client.set_cap(kind, name, unit=_UNITS[unit], reason=reason, **given)
    on = scope_of(cap.scope_kind, cap.scope_name)
    limited = amount(cap.unit, None if cap.unlimited else cap.limit_amount)
    session.show(cap, lambda: [f"the cap on {on} is {limited}, {amount(cap.unit, cap.available)} free"])


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
            remedy="write tenant, project:SLUG, user:NAME, role:NAME, run:ID or user_project:USER/PROJECT",
        )
    return kind, name
