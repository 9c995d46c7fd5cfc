"""Recording decisions that are not about an action: admission, approvals, authentication, configuration, refused permits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.database.jsonb import jsonb
from holdfast.ids import new_id
from holdfast.tenancy.principals import Principal
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue, canonical_bytes

_NOW_MS = text("SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)")

_INSERT = text("""
    INSERT INTO decisions (tenant_id, decision_id, run_id, kind, verdict, reason_codes, hold_id, approval_id, reply, part_a, part_b,
                           record_hash)
    VALUES (:tenant_id, :decision_id, :run_id, :kind, :verdict, :reason_codes, :hold_id, :approval_id, CAST(:reply AS jsonb), :part_a,
            :part_b, :record_hash)
""")


async def record_event(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    kind: str,
    verdict: Literal["allow", "deny"],
    code: str,
    message: str,
    facts: Mapping[str, JsonValue],
    run_id: UUID | None = None,
    approval_id: UUID | None = None,
    hold_id: UUID | None = None,
    decision_id: UUID | None = None,
) -> UUID:
    """Writes a decision record in the caller's transaction and returns its id.

    Args:
        connection: The transaction of what was decided (LAW 2).
        tenant_id: The tenant, or the platform's for what has none.
        kind: What was decided on, such as `auth` or `approval`.
        verdict: What was decided.
        code: Stable reason code.
        message: A sentence.
        facts: What it was decided on; no secrets.
        run_id: The run, if it was about one.
        approval_id: The approval, if it was about one.
        hold_id: The hold that was granted, if one was.
        decision_id: Id of the record, if something else had to cite it before; else a new one.
    """
    decision_id = decision_id or new_id()
    now_ms: int = (await connection.execute(_NOW_MS)).scalar_one()
    part_a = canonical_bytes({"v": record.RECORD_VERSION, "kind": kind, "facts": dict(facts)})
    part_b = record.part_b(
        decision_id=decision_id, time_ms=now_ms, verdict=verdict, reason_codes=(code,), hold_id=hold_id, legs=[]
    )
    reply: dict[str, JsonValue] = {
        "code": code,
        "message": message,
        "rule_id": "",
        "retryable": False,
        "approval_expires_at": None,
    }
    await connection.execute(
        _INSERT,
        {
            "tenant_id": tenant_id,
            "decision_id": decision_id,
            "run_id": run_id,
            "kind": kind,
            "verdict": verdict,
            "reason_codes": [code],
            "hold_id": hold_id,
            "approval_id": approval_id,
            "reply": jsonb(reply),
            "part_a": part_a,
            "part_b": part_b,
            "record_hash": record.record_hash(part_a, part_b),
        },
    )
    return decision_id


def subject_of(principal: Principal) -> dict[str, JsonValue]:
    """Returns a principal as records name it."""
    return {
        "tenant": principal.tenant,
        "project": principal.project,
        "user": principal.user,
        "user_id": str(principal.user_id),
        "key_id": str(principal.key_id),
        "roles": sorted(principal.roles),
    }


async def record_change(
    connection: AsyncConnection,
    tenant_id: UUID,
    principal: Principal,
    code: str,
    message: str,
    change: Mapping[str, JsonValue],
) -> UUID:
    """Records a change of configuration in its transaction: who changed what."""
    return await record_event(
        connection,
        tenant_id,
        kind="config",
        verdict="allow",
        code=code,
        message=message,
        facts={"subject": subject_of(principal), "change": dict(change)},
    )
