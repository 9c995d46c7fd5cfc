"""`holdfast decisions` and `decisions show`: every verdict that was given, and why."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.files import TIMES, utc, write_pieces
from cli.session import Session, refuse_options, with_session
from cli.terminal import EXIT_CODES_HELP, say
from cli.text import json_line, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdk import Decision, DecisionDetail
    from sdk.decisions import DecisionFilters

_LISTED: Final = 20


class VerdictName(StrEnum):
    """What may be decided."""

    ALLOW = "allow"
    DENY = "deny"
    NEEDS_APPROVAL = "needs_approval"


Run = Annotated[str | None, typer.Option(help="Only those of this run.")]
Agent = Annotated[str | None, typer.Option(help="Only those about this agent.")]
Role = Annotated[str | None, typer.Option(help="Only those about agents of this role.")]
Verdict = Annotated[VerdictName | None, typer.Option(help="Only these.")]
Kind = Annotated[str | None, typer.Option(help="Only of this kind, such as tool.call or run.admission.")]
Tool = Annotated[str | None, typer.Option(help="Only calls of this tool.")]
Rule = Annotated[str | None, typer.Option(help="Only those that this rule decided.")]
Code = Annotated[str | None, typer.Option(help="Only with this reason code.")]
Start = Annotated[datetime | None, typer.Option("--from", formats=TIMES, help="From then on, UTC.")]
End = Annotated[datetime | None, typer.Option("--to", formats=TIMES, help="Before then, UTC.")]


class FormatName(StrEnum):
    """What decisions may be written as."""

    CSV = "csv"
    JSONL = "jsonl"
    OCSF = "ocsf"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(epilog=EXIT_CODES_HELP, invoke_without_command=True)
    group.callback(invoke_without_command=True)(decisions)
    for command in (show, export):
        group.command(epilog=EXIT_CODES_HELP)(command)
    app.add_typer(group, name="decisions")


@with_session
def decisions(
    session: Session,
    context: typer.Context,
    *,
    run: Run = None,
    agent: Agent = None,
    role: Role = None,
    verdict: Verdict = None,
    kind: Kind = None,
    tool: Tool = None,
    rule: Rule = None,
    code: Code = None,
    start: Start = None,
    end: End = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most of them. Default: 20; with --tail, without an end.")
    ] = None,
    tail: Annotated[bool, typer.Option("--tail", help="Print decisions as they come, until Ctrl-C.")] = False,
    after: Annotated[
        str | None, typer.Option(help="With --tail: begin after this number of the log; 0 is its beginning.")
    ] = None,
) -> None:
    """Lists decisions of all kinds, newest first: actions, admissions, approvals, changes, refused keys."""
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return
    wanted = _filters(run, agent, role, verdict, kind, tool, rule, code, start, end)
    if tail:
        with suppress(KeyboardInterrupt):  # how a person ends it
            _print_as_they_come(session, wanted, after, limit)
        return
    if after is not None:
        raise typer.BadParameter("--after goes with --tail")
    found = session.client.decisions(**wanted, count=limit or _LISTED)
    headings = ["decision", "at", "action", "agent", "verdict", "code", "run, step.try", "why"]
    session.show_table(found, headings, [_cells(one) for one in found], "nothing was decided")


@with_session
def export(
    session: Session,
    *,
    form: Annotated[FormatName, typer.Option("--format", help="JSON Lines, CSV, or events of OCSF.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; one that is there is not overwritten.")],
    run: Run = None,
    agent: Agent = None,
    role: Role = None,
    verdict: Verdict = None,
    kind: Kind = None,
    tool: Tool = None,
    rule: Rule = None,
    code: Code = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Writes decisions into a file for other programs, the oldest first. To check them without the server: `audit export`."""
    wanted = _filters(run, agent, role, verdict, kind, tool, rule, code, start, end)
    written = write_pieces(out, session.client.decisions_export(form.value, **wanted))
    session.show({"file": str(out), "bytes": written}, lambda: [f"{out}: {written} bytes"])


def _filters(
    run: str | None,
    agent: str | None,
    role: str | None,
    verdict: VerdictName | None,
    kind: str | None,
    tool: str | None,
    rule: str | None,
    code: str | None,
    start: datetime | None,
    end: datetime | None,
) -> DecisionFilters:
    return {
        "run_id": run,
        "agent": agent,
        "role": role,
        "verdict": None if verdict is None else verdict.value,
        "kind": kind,
        "tool": tool,
        "rule": rule,
        "code": code,
        "start": utc(start),
        "end": utc(end),
    }


def _cells(one: Decision) -> list[str]:
    return [
        one.decision_id,
        f"{one.created_at:%Y-%m-%d %H:%M:%S}",
        one.tool or one.kind,
        one.agent,
        one.verdict,
        ", ".join(one.reason_codes),
        "" if one.run_id is None else f"{one.run_id} {one.step}.{one.try_number}" if one.step else one.run_id,
        one.message,
    ]


def _print_as_they_come(session: Session, wanted: DecisionFilters, after: str | None, limit: int | None) -> None:
    coming = session.client.decisions_as_they_come(**wanted, after=after)
    for number, (_, one) in enumerate(coming, 1):
        action, codes = one["tool"] or one["kind"], ", ".join(one["reason_codes"])
        line = f"{one['created_at'][:19]}Z  {one['verdict']:<14}  {action}  {one['agent'] or '-'}  {codes}  {one['message']}"
        say(json_line(one) if session.as_json else safe(line))
        if number == limit:
            return


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
        "agent": f"{one.agent}, role {one.role}" if one.agent else "none",
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
    if found.part_a is None:
        yield f"{'':<9}what was evaluated was deleted; its SHA-256 is {found.part_a_sha256}"
    if one.superseded_at is not None:
        yield f"{'':<9}superseded at {one.superseded_at:%Y-%m-%d %H:%M:%S %Z}"
    if found.values is None and found.part_a is not None:
        yield f"{'':<9}personal values of it were erased"
    for title, part in (
        ("what was evaluated", found.part_a),
        ("personal values, which the record has as salted hashes", found.values),
        ("what was decided", found.part_b),
    ):
        if not part:
            continue
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in json.dumps(part, ensure_ascii=False, indent=2).split("\n"))
