"""`holdfast approvals`, `approve`, `deny` and `approval-token`: consent to exactly what is shown."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.session import Session, read_json_object, with_session
from cli.terminal import EXIT_CODES_HELP
from holdfast.money import format_usd

if TYPE_CHECKING:
    from sdk import Approval

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id of the approval.")]
Comment = Annotated[str, typer.Option(help="Stands in the record.")]


class State(StrEnum):
    """Where an approval may stand."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


class VerdictName(StrEnum):
    """What a token decides."""

    APPROVED = "approved"
    DENIED = "denied"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(approvals)
    app.command(epilog=EXIT_CODES_HELP)(approve)
    app.command(epilog=EXIT_CODES_HELP)(deny)
    app.command("approval-token", epilog=EXIT_CODES_HELP)(approval_token)


def described(approval: Approval) -> list[str]:
    """Returns all that an approver has to know, line by line: the arguments are exactly those that will be executed."""
    action = approval.action
    lines = [
        f"{approval.approval_id}  {approval.state}",
        f"  wants     {action.get('tool') or action.get('kind')} {_compact(action.get('args'))}",
        f"  for       {approval.agent} (role {approval.role}), run {approval.run_id}, step {approval.step}",
        f"  because   {approval.message or approval.rule} (rule {approval.rule})",
        f"  decided   by a key with the role {approval.approver_role}, not by {approval.requester}, who started the run",
        f"  until     {approval.expires_at:%Y-%m-%d %H:%M:%S %Z}",
    ]
    if approval.max_cost_nano_usd:
        lines.append(f"  costs     {format_usd(approval.max_cost_nano_usd)} of the run's budget at most")
    if approval.decided_by is not None:
        lines.append(f"  {approval.state:<9} by {approval.decided_by}: {approval.comment or 'no comment'}")
    if approval.edited_action is not None:
        lines.append(f"  edited to {_compact(approval.edited_action.get('args'))}")
    return lines


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@with_session
def approvals(
    session: Session,
    state: Annotated[State, typer.Option(help="Which ones.")] = State.PENDING,
    run: Annotated[str | None, typer.Option(help="Only those of this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most of them.")] = 50,
) -> None:
    """Lists what waits for consent."""
    found = session.client.approvals(state=state.value, run_id=run, count=limit)
    session.show(found, lambda: [line for one in found for line in described(one)] or [f"nothing is {state.value}"])


@with_session
def approve(
    session: Session,
    approval_id: ApprovalId,
    comment: Comment = "",
    arguments: Annotated[
        Path | None, typer.Option(help="Consent to these arguments instead: a file with a JSON object, - for stdin.")
    ] = None,
) -> None:
    """Consents, once, to exactly these arguments."""
    edited = None if arguments is None else read_json_object(arguments, "the arguments")
    decided = session.client.decide(approval_id, "approved", comment=comment, edited_arguments=edited)
    session.show(decided, lambda: described(decided))


@with_session
def deny(session: Session, approval_id: ApprovalId, comment: Comment = "") -> None:
    """Refuses consent."""
    decided = session.client.decide(approval_id, "denied", comment=comment)
    session.show(decided, lambda: described(decided))


@with_session
def approval_token(
    session: Session,
    approval_id: ApprovalId,
    verdict: Annotated[VerdictName, typer.Option(help="What the token decides.")],
) -> None:
    """Prints a one-time token that decides when it comes to the run by a bare `temporal workflow signal`."""
    run_id = session.client.approval(approval_id).run_id
    token = session.client.create_approval_token(approval_id, "approved" if verdict == "approved" else "denied")
    session.show(
        {"run_id": run_id, "token": token.token, "expires_at": f"{token.expires_at:%Y-%m-%dT%H:%M:%SZ}"},
        lambda: [token.token],
    )
    if not session.as_json:
        signal = json.dumps({"approval_id": approval_id, "token": "TOKEN"})
        print(
            f"valid once, until {token.expires_at:%Y-%m-%d %H:%M:%S %Z}; send it with\n"
            f"  temporal workflow signal --workflow-id {run_id} --name approval --input '{signal}'",
            file=sys.stderr,
        )
