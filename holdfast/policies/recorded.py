"""Why a recorded decision was decided as it was, by the version of the policy that the run was pinned to then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Literal, cast
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.reading import DecisionRow, read_decision
from holdfast.errors import RequestInvalid
from holdfast.policies import store
from holdfast.policies.catalogue import read_catalogue
from holdfast_verdict import Catalogue, Policy, PolicyRefused, compile_policy
from holdfast_verdict.check.recorded import Told, explain_record, policy_hash_of
from holdfast_verdict.engine.verdict import Verdict

# The run's own version, if that is of this hash: several versions may compile to the same.
_VERSION = text("""
    SELECT p.policy_id FROM policies p
    LEFT JOIN runs r ON r.tenant_id = p.tenant_id AND r.run_id = :run_id AND r.policy_id = p.policy_id
    WHERE p.tenant_id = :tenant_id AND p.policy_hash = :policy_hash ORDER BY r.run_id IS NULL, p.version DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """A recorded decision and why.

    Attributes:
        row: The decision.
        policy_hash: Hash of the policy that decided, hex; empty if none did.
        policy_version: Number of the version that it was; 0 if it is no version of the tenant's policy.
        told: Why.
    """

    row: DecisionRow
    policy_hash: str
    policy_version: int
    told: Told


async def explained(connection: AsyncConnection, tenant_id: UUID, decision_id: UUID) -> ExplainedDecision:
    """Explains a decision from its record.

    Raises:
        NotFound: The tenant has no such decision.
        PolicyBroken: The policy that is stored is not what was accepted.
    """
    record = await read_decision(connection, tenant_id, decision_id)
    policy_hash = policy_hash_of(record.whole)
    version, policy = 0, None
    if policy_hash:
        version, policy = await _kept(connection, tenant_id, record.row.run_id, policy_hash)
    row = record.row
    verdict = Verdict(
        cast("Literal['allow', 'deny', 'needs_approval']", row.verdict),
        row.reason_codes[0] if row.reason_codes else "",
        row.message,
        row.rule_id,
    )
    told = await asyncio.to_thread(explain_record, record.whole, policy, verdict, of_action=row.step is not None)
    return ExplainedDecision(row, policy_hash, version, told)


async def _kept(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID | None, policy_hash: str
) -> tuple[int, Policy | None]:
    try:
        named = bytes.fromhex(policy_hash)
    except ValueError:
        return 0, None
    parameters = {"tenant_id": tenant_id, "run_id": run_id, "policy_hash": named}
    policy_id: UUID | None = await connection.scalar(_VERSION, parameters)
    if policy_id is not None:
        stored = await store.read_version(connection, tenant_id, policy_id)
        return stored.about.version, await _with_lines(connection, tenant_id, stored.policy, stored.source)
    if run_id is None:
        return 0, None
    pinned = await store.read_pinned(connection, tenant_id, run_id)  # what a table of an older run's role says
    return 0, pinned.policy if pinned.policy.policy_hash == named else None


async def _with_lines(connection: AsyncConnection, tenant_id: UUID, policy: Policy, source: str) -> Policy:
    """Adds the lines of rules in the source, if it still compiles to the same: the compiled form that is kept has none."""
    try:
        tools = await read_catalogue(connection, tenant_id)
    except RequestInvalid:
        tools = None  # of a tool that nobody could speak of; the text may do without
    lines = await asyncio.to_thread(_lines, policy.policy_hash, source, tools)
    return replace(policy, lines=lines)


def _lines(policy_hash: bytes, source: str, tools: Catalogue | None) -> dict[str, int]:
    for catalogue in (tools, None):
        try:
            compiled = compile_policy(source, catalogue)
        except PolicyRefused:
            continue  # tools have changed since, or it speaks of what no tool has
        if compiled.policy_hash == policy_hash:
            return dict(compiled.lines)
    return {}
