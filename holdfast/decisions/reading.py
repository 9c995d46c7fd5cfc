"""Reading decision records: both parts, byte for byte as they were hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions import sealed
from holdfast.errors import NotFound
from holdfast_verdict.canonical import JsonValue

COLUMNS = """
    decision_id, run_id, step, try, kind, verdict, reason_codes, reply ->> 'message' AS message, reply ->> 'rule_id' AS rule_id,
    hold_id, approval_id, created_at, superseded_at, leaf_index, record_hash,
    coalesce(CAST(CAST(convert_from(part_a, 'UTF8') AS json) #> '{action,tool}' AS text),
        CASE WHEN part_a IS NULL AND facet_tool <> '' THEN CAST(to_json(facet_tool) AS text) END) AS tool
"""
# `json` and `#>`, for what unescapes text (`jsonb`, `#>>`) refuses a NUL character, which arguments may hold

_READ = text(
    f"SELECT {COLUMNS}, coalesce(facet_agent, f.agent) AS agent, coalesce(facet_role, f.role) AS role, part_a, part_b, part_a_sha256, "  # noqa: S608 (constant columns)
    "(SELECT salt FROM run_salts s WHERE s.tenant_id = d.tenant_id AND s.run_id = d.run_id) AS salt "
    "FROM decisions d, LATERAL decision_facets(d) f WHERE tenant_id = :tenant_id AND decision_id = :decision_id"
)


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as lists show it."""

    decision_id: UUID
    run_id: UUID | None
    step: int | None
    try_number: int | None
    kind: str
    agent: str
    role: str
    tool: str
    verdict: str
    reason_codes: list[str]
    message: str
    rule_id: str
    hold_id: UUID | None
    approval_id: UUID | None
    created_at: datetime
    superseded_at: datetime | None
    leaf_index: int | None
    record_hash: bytes


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with the two parts that its hash is over.

    Attributes:
        part_a: What was evaluated; None if it was deleted.
        part_a_sha256: Its SHA-256.
        values: Personal values that its part A has as salted hashes, by JSON pointer into the arguments; None if they were erased.
        whole: Part A with these values, as far as they are there; empty if it was deleted.
    """

    row: DecisionRow
    part_a: bytes | None
    part_b: bytes
    part_a_sha256: bytes
    values: Mapping[str, JsonValue] | None
    whole: bytes


def row_of(row: Row[tuple[object, ...]]) -> DecisionRow:
    """Builds a decision from a row."""
    return DecisionRow(
        decision_id=row.decision_id,
        run_id=row.run_id,
        step=row.step,
        try_number=getattr(row, "try"),
        kind=row.kind,
        agent=row.agent,
        role=row.role,
        tool=orjson.loads(row.tool) if row.tool else "",
        verdict=row.verdict,
        reason_codes=row.reason_codes,
        message=row.message or "",
        rule_id=row.rule_id or "",
        hold_id=row.hold_id,
        approval_id=row.approval_id,
        created_at=row.created_at,
        superseded_at=row.superseded_at,
        leaf_index=row.leaf_index,
        record_hash=row.record_hash,
    )


async def read_decision(connection: AsyncConnection, tenant_id: UUID, decision_id: UUID) -> DecisionRecord:
    """Returns one decision with both parts of its record.

    Raises:
        NotFound: The tenant has no such decision.
    """
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "decision_id": decision_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no decision {decision_id}")
    if row.part_a is None:
        return DecisionRecord(row_of(row), None, row.part_b, row.part_a_sha256, None, b"")
    values: Mapping[str, JsonValue] | None = {}
    whole = row.part_a
    if sealed.is_sealed(row.part_a):
        kept = sealed.values_of(orjson.loads(row.part_a), row.salt)
        values = None if kept is None else kept.by_pointer
        whole = sealed.opened(row.part_a, row.salt) or row.part_a
    return DecisionRecord(row_of(row), row.part_a, row.part_b, hashlib.sha256(row.part_a).digest(), values, whole)
