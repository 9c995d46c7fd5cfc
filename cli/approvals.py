"""`holdfast approvals`, `approve`, `deny`, `delegate`, `withdraw` and what votes without a key: consent to exactly what is shown."""

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
    from collections.abc import Iterator

    from sdk import Approval

ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id of the approval.")]
Comment = Annotated[str, typer.Option(help="Stands in the record.")]
Binding = Annotated[
    str | None,
    typer.Option(help="What is consented to, as `approvals` shows it; needed once the arguments were edited."),
]


class State(StrEnum):
    """Where an approval may stand."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class VerdictName(StrEnum):
    """What a token decides."""

    APPROVED = "approved"
    DENIED = "denied"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=EXIT_CODES_HELP)(approvals)
    app.command(epilog=EXIT_CODES_HELP)(approve)
    app.command(epilog=EXIT_CODES_HELP)(deny)
    app.command(epilog=EXIT_CODES_HELP)(delegate)
    app.command(epilog=EXIT_CODES_HELP)(withdraw)
    app.command("approval-token", epilog=EXIT_CODES_HELP)(approval_token)
    app.command("approval-link", epilog=EXIT_CODES_HELP)(approval_link)


def described(approval: Approval) -> list[str]:
    """Returns all that an approver has to know, line by line: the arguments are exactly those that will be executed."""
    action = approval.action
    lines = [
        f"{approval.approval_id}  {approval.state}",
        f"  wants     {action.get('tool') or action.get('kind')} {_compact(action.get('args'))}",
        f"  for       {approval.agent} (role {approval.role}), run {approval.run_id}, step {approval.step}",
        f"  because   {approval.message or approval.rule} (rule {approval.rule})",
        *_asked(approval),
        f"  until     {approval.expires_at:%Y-%m-%d %H:%M:%S %Z}",
    ]
    if approval.max_cost_nano_usd:
        lines.append(f"  costs     {format_usd(approval.max_cost_nano_usd)} of the run's budget at most")
    lines += [f"  {line}" for line in _votes(approval)]
    if approval.decided_by is not None:
        lines.append(f"  {approval.state:<9} by {approval.decided_by}: {approval.comment or 'no comment'}")
    if approval.edited_action is not None:
        lines.append(f"  edited to {_compact(approval.edited_action.get('args'))}")
        lines += [
            f"    {change['argument']}: {_compact(change['before'])} -> {_compact(change['after'])}"
            for change in approval.changes
        ]
        if approval.state == "pending":
            lines.append(f"  consent to this by --binding {approval.binding}")
    return lines


def _asked(approval: Approval) -> Iterator[str]:
    """Says who decides; with several needs, how far each is."""
    if len(approval.needs) == 1 and approval.needs[0]["count"] == 1 and approval.needs[0]["kind"] == "role":
        yield (
            f"  decided   by a key with the role {approval.approver_role}, not by {approval.requester}, who started the run"
        )
    else:
        yield f"  needs     all of these, each by somebody else, not by {approval.requester}, who started the run:"
        for need in approval.needs:
            met = f"met by {', '.join(need['met_by'])}" if need["met_by"] else "nobody yet"
            missing = f", {need['missing']} missing" if need["missing"] else ""
            yield f"    {need['count']} of {need['kind']} {need['name']}: {met}{missing}"
    later = approval.escalation
    if later is not None:
        yield f"  later     from {later['at']} on, {later['count']} of {later['kind']} {later['name']} may stand in"


def _votes(approval: Approval) -> Iterator[str]:
    for each in approval.delegations:
        yield f"delegated {each['from_name']} lets {each['to_name']} vote: {each['reason'] or 'no comment'}"
    for vote in approval.votes:
        counts = "" if vote["counts"] else " (counts no more)"
        yield f"voted     {vote['name']} ({vote['kind']}): {vote['verdict']}{counts}: {vote['reason'] or 'no comment'}"


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
    binding: Binding = None,
) -> None:
    """Consents, once, to exactly these arguments."""
    edited = None if arguments is None else read_json_object(arguments, "the arguments")
    decided = session.client.decide(approval_id, "approved", comment=comment, edited_arguments=edited, binding=binding)
    session.show(decided, lambda: described(decided))


@with_session
def deny(session: Session, approval_id: ApprovalId, comment: Comment = "", binding: Binding = None) -> None:
    """Refuses consent: one is enough."""
    decided = session.client.decide(approval_id, "denied", comment=comment, binding=binding)
    session.show(decided, lambda: described(decided))


@with_session
def delegate(
    session: Session,
    approval_id: ApprovalId,
    to: Annotated[str, typer.Option(metavar="USER", help="Who votes in your place; never who started the run.")],
    comment: Comment = "",
) -> None:
    """Lets another user vote in your place, on this approval alone."""
    delegated = session.client.delegate(approval_id, to, comment=comment)
    session.show(delegated, lambda: described(delegated))


@with_session
def withdraw(session: Session, approval_id: ApprovalId, comment: Comment = "") -> None:
    """Takes back your vote or delegation; if you started the run, the request itself."""
    what, approval = session.client.withdraw(approval_id, comment=comment)
    session.show({"withdrawn": what, "approval": approval}, lambda: [f"your {what} is withdrawn", *described(approval)])


@with_session
def approval_link(
    session: Session,
    approval_id: ApprovalId,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="For whom; an owner or admin may make it for others.")
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=720, help="For how long it is good, at most.")] = 24,
) -> None:
    """Prints a one-time link that decides without a key: whoever has it is taken for that approver."""
    link = session.client.create_approval_link(approval_id, user=user, expires_in_s=hours * 3_600)
    session.show(
        {
            "path": link.path,
            "page": link.page,
            "user": link.user,
            "expires_at": f"{link.expires_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        lambda: [link.page],
    )
    if not session.as_json:
        until = f"{link.expires_at:%Y-%m-%d %H:%M:%S %Z}"
        print(
            f"for {link.user}, once, until {until}; put the API's address before it. Programs use {link.path}",
            file=sys.stderr,
        )


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
