"""`holdfast decisions` and `decisions show`: every verdict that was given, and why."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import DecisionDetail


class VerdictName(StrEnum):
    """What may be decided."""

    ALLOW = "allow"
    DENY = "deny"
    NEEDS_APPROVAL = "needs_approval"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(decisions)
    group.command(epilog=EXIT_CODES_HELP)(show)
    app.add_typer(group, name="decisions")


@with_session
def decisions(
    session: Session,
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="Only those of this run.")] = None,
    verdict: Annotated[VerdictName | None, typer.Option(help="Only these.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as tool.call or run.admission.")] = None,
    code: Annotated[str | None, typer.Option(help="Only with this reason code.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 20,
) -> None:
    """Lists decisions of all kinds, newest first: actions, admissions, approvals, changes, refused keys."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    found = session.client.decisions(
        run_id=run, verdict=None if verdict is None else verdict.value, kind=kind, code=code, count=limit
    )
    rows = (
        [
            one.decision_id,
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
            one.tool or one.kind,
            one.verdict,
            ", ".join(one.reason_codes),
            "" if one.run_id is None else f"{one.run_id} {one.step}.{one.try_number}" if one.step else one.run_id,
            one.message,
        ]
        for one in found
    )
    headings = ["decision", "at", "action", "verdict", "code", "run, step.try", "why"]
    session.show_table(found, headings, rows, "nothing was decided")


@with_session
def show(
    session: Session, decision_id: Annotated[str, typer.Argument(metavar="DECISION", help="Id of the decision.")]
) -> None:
    """Shows a decision with its record: what was evaluated, and what was decided."""
    found = session.client.decision(decision_id)
    session.show(found, lambda: _lines(found))


def _lines(found: DecisionDetail) -> Iterator[str]:
    one = found.decision
    step = "" if one.step is None else f", step {one.step}, try {one.try_number}"
    for name, value in {
        "decision": one.decision_id,
        "at": f"{one.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "action": one.tool or one.kind,
        "verdict": f"{one.verdict} ({', '.join(one.reason_codes)})",
        "why": one.message,
        "rule": one.rule_id or "none",
        "run": f"{one.run_id}{step}" if one.run_id else "none",
        "hold": one.hold_id or "none",
        "approval": one.approval_id or "none",
        "log": "not in it yet" if one.leaf_index is None else f"number {one.leaf_index}",
        "hash": one.record_hash,
    }.items():
        yield f"{name:<9}{value}"
    if one.superseded_at is not None:
        yield f"{'':<9}superseded at {one.superseded_at:%Y-%m-%d %H:%M:%S %Z}"
    for title, part in (("what was evaluated", found.part_a), ("what was decided", found.part_b)):
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in json.dumps(part, ensure_ascii=False, indent=2).split("\n"))
