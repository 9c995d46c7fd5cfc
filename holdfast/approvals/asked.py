"""The approvals of a step as a decision reads them: where each stands, and who has consented to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.approvals.binding import expires_at_ms
from holdfast_verdict.engine.facts import Approval, ApprovalState, Consent

_READ = text("""
    SELECT a.approval_id, a.rule, a.binding, a.action, a.edited_action, a.created_at, a.expires_at, a.decided_at,
        a.approver_role, a.revision,
        u.name AS decided_by,
        CASE WHEN a.consumed_by IS NOT NULL AND coalesce(h.state NOT IN ('voided', 'expired', 'unknown'), true) THEN 'consumed'
             WHEN a.withdrawn_at IS NOT NULL THEN 'withdrawn'
             ELSE coalesce(a.verdict, CASE WHEN a.expires_at <= now() THEN 'expired' ELSE 'pending' END) END AS state
    FROM approvals a
    LEFT JOIN users u ON u.tenant_id = a.tenant_id AND u.user_id = a.decided_by
    LEFT JOIN decisions d ON d.tenant_id = a.tenant_id AND d.decision_id = a.consumed_by
    LEFT JOIN holds h ON h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id
    WHERE a.tenant_id = :tenant_id AND a.run_id = :run_id AND a.step = :step
    ORDER BY a.approval_id DESC
""")
_VOTES = text("""
    SELECT kind, name, roles, created_at FROM (
        SELECT DISTINCT ON (kind, voter) * FROM approval_votes
        WHERE tenant_id = :tenant_id AND approval_id = :approval_id AND revision = :revision
        ORDER BY kind, voter, number DESC) v
    WHERE verdict = 'approved' ORDER BY number
""")


@dataclass(frozen=True, slots=True)
class Asked:
    """An approval that was asked for a step.

    Attributes:
        rule_id: The gate that asked.
        binding: What it is for, as it stands now.
        state: Where it stands.
        asked_at_ms: When it was asked for.
        expires_at_ms: From then on it opens nothing.
        consents: Who has consented to exactly this.
        action: Canonical bytes of what it is for: what an approver put in place, or what was proposed.
        edited: Whether an approver put something in place.
    """

    approval_id: UUID
    rule_id: str
    binding: bytes
    state: ApprovalState
    asked_at_ms: int
    expires_at_ms: int
    consents: tuple[Consent, ...]
    action: bytes
    edited: bool


async def read_asked(connection: AsyncConnection, tenant_id: UUID, run_id: UUID, step: int) -> tuple[Asked, ...]:
    """Returns all approvals of a step, newest first: a consumed or withdrawn one consents to nothing any more."""
    rows = list(await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id, "step": step}))
    return tuple([await _asked(connection, tenant_id, row) for row in rows])


async def _asked(connection: AsyncConnection, tenant_id: UUID, row: Row[tuple[object, ...]]) -> Asked:
    parameters = {"tenant_id": tenant_id, "approval_id": row.approval_id, "revision": row.revision}
    votes = await connection.execute(_VOTES, parameters)
    consents = tuple(Consent(vote.name, vote.kind, tuple(vote.roles), expires_at_ms(vote.created_at)) for vote in votes)
    if not consents and row.state in ("approved", "consumed") and row.decided_by is not None:
        # decided by an older program, which knew gates of one role only
        consents = (Consent(row.decided_by, "user", (row.approver_role,), expires_at_ms(row.decided_at)),)
    return Asked(
        row.approval_id,
        row.rule,
        row.binding,
        row.state,
        expires_at_ms(row.created_at),
        expires_at_ms(row.expires_at),
        consents,
        row.edited_action or row.action,
        row.edited_action is not None,
    )


def edited_action(asked: Sequence[Asked], approval_id: str) -> bytes | None:
    """Returns what a try that cites an approval is about, if any approver of the step has edited it; else None.

    What is asked after an edit is asked about the edited action, so the newest approval knows all edits before it.
    """
    cited = next((each for each in asked if str(each.approval_id) == approval_id), None)
    return cited.action if cited is not None and any(each.edited for each in asked) else None


def approvals_for(asked: Sequence[Asked], approval_id: str, action: bytes) -> tuple[Approval, ...]:
    """Returns the approvals that go with a try: the one that it cites, and what other gates were given for the same action.

    What was given for other arguments is left out, so that its gate asks anew.
    """
    if not any(str(each.approval_id) == approval_id for each in asked):
        return ()
    return tuple(
        Approval(
            approval_id=str(each.approval_id),
            rule_id=each.rule_id,
            binding=each.binding.hex(),
            state=each.state,
            asked_at_ms=each.asked_at_ms,
            expires_at_ms=each.expires_at_ms,
            consents=each.consents,
        )
        for each in reversed(asked)
        if str(each.approval_id) == approval_id or (each.state == "approved" and each.action == action)
    )
