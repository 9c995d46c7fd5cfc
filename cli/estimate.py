"""`holdfast estimate`: what a run's first call would hold, and whether each cap affords it. Nothing is reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.caps import amount, counted, scope_of
from cli.run import read_text
from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP, ExitCode
from cli.text import columns
from holdfast.money import format_usd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import Estimate


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXIT_CODES_HELP)(estimate)


@with_session
def estimate(
    session: Session,
    text: Annotated[str, typer.Argument(help="What the agent would be asked; - reads it from standard input.")],
    agent: Annotated[str, typer.Option(help="Name of the agent.")],
    project: Annotated[str | None, typer.Option(help="Default: the key's own.")] = None,
    budget: Annotated[str | None, typer.Option(help="The run's own cap in dollars. Default: the agent's.")] = None,
    guaranteed: Annotated[bool, typer.Option("--guaranteed", help="As if the whole budget were held at once.")] = False,
) -> None:
    """Says what a run's first call would hold, and whether each cap affords it. Nothing is reserved or started.

    Exit code 9 if the run would not be admitted now.
    """
    cap_usd = None if budget is None else budget.removeprefix("$")
    found = session.client.estimate(agent, read_text(text), project=project, cap_usd=cap_usd, guaranteed=guaranteed)
    session.show(found, lambda: _lines(found))
    if not found.admitted:
        raise typer.Exit(ExitCode.NOT_AFFORDABLE)


def _lines(found: Estimate) -> Iterator[str]:
    yield (
        f"{found.agent} version {found.agent_version}, role {found.role} version {found.role_version}, "
        f"for {found.project}/{found.user}"
    )
    if found.first_call_nano_usd is not None:
        dearer = "" if found.dearest_model == found.model else f", with {found.dearest_model} the dearest target"
        yield (
            f"the first call holds at most {format_usd(found.first_call_nano_usd)}: {found.model} over {found.wire}, "
            f"{found.input_tokens_bound} tokens in, {found.output_tokens_bound} out{dearer}"
        )
        yield f"a smallest useful call takes {format_usd(found.floor_nano_usd)}, which admission asks for"
        own = ["this run", "money", *(3 * [format_usd(found.run_cap_nano_usd)])]
        own[4] = format_usd(found.first_call_nano_usd)
        rows = [["on", "counts", "limit", "free", "first call", ""], [*own, _yes(found.run_affords)]]
        for cap in found.caps:
            numbers = (cap.limit_amount, cap.available, cap.needed)
            amounts = [amount(cap.unit, number) for number in numbers]
            rows.append(
                [scope_of(cap.scope_kind, cap.scope_name), counted(cap.unit, cap.window), *amounts, _yes(cap.affords)]
            )
        yield ""
        yield from columns(rows)
        yield ""
    yield (
        "it would be admitted" if found.admitted else "it would NOT be admitted"
    ) + f": {found.message} ({found.code})"


def _yes(affords: bool) -> str:
    return "affords it" if affords else "does not"
