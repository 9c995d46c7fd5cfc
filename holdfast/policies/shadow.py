"""What a candidate would have decided, beside what was decided: recorded, never acted on, and counted up where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_INSERT = text("""
    INSERT INTO shadow_verdicts (tenant_id, decision_id, policy_id, run_id, step, try, action, role, active_id, active_verdict,
                                 active_code, active_rule, verdict, code, rule)
    VALUES (:tenant_id, :decision_id, :policy_id, :run_id, :step, :try_number, :action, :role, :active_id, :active_verdict,
            :active_code, :active_rule, :verdict, :code, :rule)
    ON CONFLICT DO NOTHING
""")
_TOTALS = text("""
    SELECT count(*) AS decisions, count(*) FILTER (WHERE verdict <> active_verdict) AS different, min(decided_at) AS since
    FROM shadow_verdicts WHERE tenant_id = :tenant_id AND policy_id = :policy_id
""")
_DIFFERENCES = text("""
    SELECT action, role, active_verdict, active_code, active_rule, verdict, code, rule, count(*) AS decisions,
           max(decided_at) AS newest_at, (array_agg(decision_id ORDER BY decided_at DESC))[1] AS newest_id
    FROM shadow_verdicts WHERE tenant_id = :tenant_id AND policy_id = :policy_id AND verdict <> active_verdict
    GROUP BY action, role, active_verdict, active_code, active_rule, verdict, code, rule
    ORDER BY count(*) DESC, action, role, active_rule, rule LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What a candidate would have decided on a try, beside what was decided.

    Attributes:
        decision_id: The decision that was made.
        policy_id: The candidate.
        run_id: The run.
        step: Its step.
        try_number: The try of it.
        action: The action's name, as policies speak of it.
        role: The run's role.
        active_id: The version that decided; None if the tenant had none.
        active_verdict: What was decided.
        active_code: Its reason code.
        active_rule: The rule that decided, or empty.
        verdict: What the candidate would have decided.
        code: Its reason code.
        rule: The rule, or empty.
    """

    decision_id: UUID
    policy_id: UUID
    run_id: UUID
    step: int
    try_number: int
    action: str
    role: str
    active_id: UUID | None
    active_verdict: str
    active_code: str
    active_rule: str
    verdict: str
    code: str
    rule: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Decisions on which a candidate would have decided otherwise, for the same reasons.

    Attributes:
        decisions: How many.
        newest_at: When the newest was.
        newest_id: The newest, as the example.
    """

    action: str
    role: str
    active_verdict: str
    active_code: str
    active_rule: str
    verdict: str
    code: str
    rule: str
    decisions: int
    newest_at: datetime
    newest_id: UUID


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """How a candidate compares with what decided.

    Attributes:
        decisions: On how many it was asked.
        different: On how many its verdict is another.
        since: When it was asked first.
        differences: The others, those that happened most often first.
    """

    decisions: int
    different: int
    since: datetime | None
    differences: Sequence[Difference]


async def record(connection: AsyncConnection, tenant_id: UUID, looked: ShadowVerdict) -> None:
    """Keeps what a candidate would have decided; the same decision again changes nothing."""
    await connection.execute(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "decision_id": looked.decision_id,
            "policy_id": looked.policy_id,
            "run_id": looked.run_id,
            "step": looked.step,
            "try_number": looked.try_number,
            "action": looked.action,
            "role": looked.role,
            "active_id": looked.active_id,
            "active_verdict": looked.active_verdict,
            "active_code": looked.active_code,
            "active_rule": looked.active_rule,
            "verdict": looked.verdict,
            "code": looked.code,
            "rule": looked.rule,
        },
    )


async def report(connection: AsyncConnection, tenant_id: UUID, policy_id: UUID, *, count: int) -> ShadowReport:
    """Returns how a candidate compares with what decided, with the most frequent differences."""
    parameters = {"tenant_id": tenant_id, "policy_id": policy_id, "count": count}
    totals = (await connection.execute(_TOTALS, parameters)).one()
    rows = await connection.execute(_DIFFERENCES, parameters)
    return ShadowReport(totals.decisions, totals.different, totals.since, [Difference(*row) for row in rows])
