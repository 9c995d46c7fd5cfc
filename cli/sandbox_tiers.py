"""`holdfast sandbox tiers` and `sandbox tier`: how hard code of the tenant is isolated, and asking for more."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import SandboxTiers


class AskedTier(StrEnum):
    """What can be asked for."""

    PROCESS = "process"
    KERNEL = "kernel"
    NONE = "none"


_TIERS: Final[Mapping[AskedTier, Literal["process", "kernel"] | None]] = MappingProxyType(
    {AskedTier.PROCESS: "process", AskedTier.KERNEL: "kernel", AskedTier.NONE: None}
)


def add_to(group: typer.Typer) -> None:
    """Adds the commands to those of the sandbox."""
    group.command(epilog=EXIT_CODES_HELP)(tiers)
    group.command(epilog=EXIT_CODES_HELP)(tier)


@with_session
def tiers(session: Session) -> None:
    """Shows in which tiers code can run here, and what the tenant and its roles ask for."""
    found = session.client.sandbox_tiers()
    session.show(found, lambda: _told(found))


@with_session
def tier(
    session: Session,
    asked: Annotated[
        AskedTier, typer.Argument(metavar="process|kernel|none", help="The least tier; `none` asks for nothing.")
    ],
    reason: Annotated[str, typer.Option(help="Stands in the decision log.")],
    role: Annotated[str, typer.Option(metavar="NAME", help="Of this role; else of the tenant.")] = "",
) -> None:
    """Asks for a tier, for runs that are admitted from now on: code runs in that one or a stronger, or not at all."""
    found = session.client.set_sandbox_tier(_TIERS[asked], role=role, reason=reason)
    session.show(found, lambda: _told(found))


def _told(found: SandboxTiers) -> Iterator[str]:
    yield f"code runs in the tier {found.deployment} at least; set up: {', '.join(found.available)}"
    for one in found.asked:
        who = f"role {one.role}" if one.role else "the tenant"
        lacking = "" if one.tier in found.available else ", which is not set up: its code is refused"
        yield f"{who} asks for {one.tier}{lacking} ({one.set_by}, {one.set_at:%Y-%m-%d %H:%M})"
