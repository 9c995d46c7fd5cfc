"""`holdfast release` and `releases`: taking responsibility for what a run has read under a label."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.session import Session, with_session
from cli.terminal import EXIT_CODES_HELP

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(release)
    app.command(epilog=EXIT_CODES_HELP)(releases)


@with_session
def release(
    session: Session,
    run_id: RunId,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="As rules name it, such as `secret`.")],
    reason: Annotated[str, typer.Option(help="Stands in the record.")],
) -> None:
    """Releases what a run has read so far under a label, for rules that say `released by role(…)`; not what it reads later."""
    made = session.client.release(run_id, label, reason=reason)
    session.show(
        made,
        lambda: [
            f"what the run had read under {label} is released by {made.released_by} as {', '.join(made.roles)}",
            "what it reads under that label from now on is not",
        ],
    )


@with_session
def releases(session: Session, run_id: RunId) -> None:
    """Lists what was released of a run, newest first."""
    found = session.client.releases(run_id)
    rows = (
        [f"{one.created_at:%Y-%m-%d %H:%M:%S}", one.label, one.released_by, ", ".join(one.roles), one.reason]
        for one in found
    )
    session.show_table(found, ["at", "label", "by", "as", "because"], rows, "nothing of this run was released")
