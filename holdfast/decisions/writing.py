"""Writing decision records that the gate does not write: admission, approval, authentication, change of configuration.

They have the same two parts and the same hash as the gate's. What evaluated them is named in `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.ids import new_id
from holdfast.ledger import repository
from holdfast.tenancy.principals import Principal
from holdfast_verdict import record
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest

ENGINE: Final = "service/1"

_NOW_MS = text("SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision to be recorded.

    Attributes:
        kind: Such as `run.admission`, `approval`, `auth`, `config`.
        verdict: What was decided.
        code: Stable reason code.
        message: A sentence.
        subject: Who asked, by name.
        args: What was asked, in canonical form; no secrets.
        facts: What the decision depended on.
        policy_hash: Hash of the rules that applied, hex, if any did.
        rule_id: The rule that decided, or empty.
        run_id: The run it is about, if there is one.
        hold_id: The hold that was granted, if any.
        approval_id: The approval it is about, if any.
        decision_id: Id of the record.
    """

    kind: str
    verdict: Literal["allow", "deny"]
    code: str
    message: str
    subject: Mapping[str, JsonValue]
    args: Mapping[str, JsonValue]
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    policy_hash: str = ""
    rule_id: str = ""
    run_id: UUID | None = None
    hold_id: UUID | None = None
    approval_id: UUID | None = None
    decision_id: UUID = field(default_factory=new_id)


def subject_of(principal: Principal) -> dict[str, JsonValue]:
    """Returns a principal as records name it."""
    return {
        "tenant": principal.tenant,
        "project": principal.project,
        "user": principal.user,
        "key_id": str(principal.key_id),
        "roles": sorted(principal.roles),
    }


async def write(connection: AsyncConnection, tenant_id: UUID, entry: Entry) -> UUID:
    """Writes a record in the caller's transaction: decided and recorded together, or neither (LAW 2)."""
    action: dict[str, JsonValue] = {"kind": entry.kind, "args": dict(entry.args)}
    action_digest = digest(action)
    part_a = canonical_bytes(
        {
            "v": record.RECORD_VERSION,
            "engine": ENGINE,
            "subject": dict(entry.subject),
            "action": action,
            "action_digest": action_digest.hex(),
            "facts": dict(entry.facts),
            "policy_hash": entry.policy_hash,
            "evaluated": {"verdict": entry.verdict, "code": entry.code, "rule_id": entry.rule_id},
            "trace": [],
            "prices": None,
        }
    )
    time_ms: int = (await connection.execute(_NOW_MS)).scalar_one()
    part_b = record.part_b(
        decision_id=entry.decision_id,
        time_ms=time_ms,
        verdict=entry.verdict,
        reason_codes=(entry.code,),
        hold_id=entry.hold_id,
        legs=[],
    )
    reply = {
        "code": entry.code,
        "message": entry.message,
        "rule_id": entry.rule_id,
        "retryable": False,
        "approval_expires_at": None,
    }
    await repository.insert_decision(
        connection,
        {
            "tenant_id": tenant_id,
            "decision_id": entry.decision_id,
            "run_id": entry.run_id,
            "step": None,
            "try": None,
            "kind": entry.kind,
            "digest": action_digest,
            "verdict": entry.verdict,
            "reason_codes": [entry.code],
            "hold_id": entry.hold_id,
            "approval_id": entry.approval_id,
            "reply": orjson.dumps(reply).decode(),
            "part_a": part_a,
            "part_b": part_b,
            "record_hash": record.record_hash(part_a, part_b),
        },
    )
    return entry.decision_id


async def record_change(
    connection: AsyncConnection, principal: Principal, code: str, message: str, args: Mapping[str, JsonValue]
) -> UUID:
    """Records a change of configuration: who changed what."""
    return await write(
        connection,
        principal.tenant_id,
        Entry("config", "allow", code, message, subject_of(principal), args),
    )
