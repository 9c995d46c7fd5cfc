"""The content of an audit bundle, line by line, from one snapshot of the database.

What a bundle needs to be whole goes with it: the records of holds that were settled within its time, the consents that its
records used, and every entry of the journal that moves a cap whose balances are to add up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions import sealed
from holdfast.errors import NotFound
from holdfast.policies.tables import policy_text
from holdfast_verdict.decide import ENGINE_VERSION as TABLES_ENGINE
from holdfast_verdict.decide import policy_hash, rule_from_json
from holdfast_verdict.engine.deciding import ENGINE_VERSION as POLICY_ENGINE
from holdfast_verdict.language.compiler import compile_policy
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused
from holdfast_verdict.verify.lines import FORMAT, VERSION, Line

_FETCH: Final = 500


def _ms_of(column: str, table: str = "") -> str:
    return f"floor(extract(epoch FROM {table and table + '.'}{column}) * 1000)::bigint AS {column}_ms"


# $1 the tenant, $2 the run or null, $3 and $4 the time, of which the end is excluded
_SCOPE: Final = """
    entries AS MATERIALIZED (
        SELECT min(entry_id) AS first, max(entry_id) AS last, min(created_at) AS since, max(created_at) AS until FROM journal
        WHERE tenant_id = $1 AND $2::uuid IS NULL AND created_at >= $3 AND created_at < $4
    ), run_caps AS MATERIALIZED (
        SELECT cap_id FROM caps WHERE tenant_id = $1 AND scope_kind = 'run' AND scope_id = $2::text
    ), moved AS MATERIALIZED (
        SELECT DISTINCT hold_id FROM journal j WHERE tenant_id = $1 AND hold_id IS NOT NULL AND CASE WHEN $2::uuid IS NULL
            THEN entry_id BETWEEN (SELECT first FROM entries) AND (SELECT last FROM entries)
            ELSE run_id = $2 OR cap_ids && ARRAY(SELECT cap_id FROM run_caps) END
    ), held AS MATERIALIZED (
        SELECT hold_id, decision_id FROM holds WHERE tenant_id = $1 AND (hold_id IN (SELECT hold_id FROM moved)
            OR CASE WHEN $2::uuid IS NULL THEN created_at >= $3 AND created_at < $4 ELSE run_id = $2 END)
    ), direct AS MATERIALIZED (
        SELECT decision_id, approval_id FROM decisions WHERE tenant_id = $1 AND (decision_id IN (SELECT decision_id FROM held)
            OR CASE WHEN $2::uuid IS NULL THEN created_at >= $3 AND created_at < $4 ELSE run_id = $2 END)
    ), asked AS MATERIALIZED (
        SELECT DISTINCT approval_id FROM direct WHERE approval_id IS NOT NULL
    )
"""

_HEADER = """
    SELECT slug, floor(extract(epoch FROM now()) * 1000)::bigint AS read_at_ms,
        $2::uuid IS NULL OR EXISTS (SELECT 1 FROM runs WHERE tenant_id = $1 AND run_id = $2) AS found
    FROM tenants WHERE tenant_id = $1
"""
_RUNS: Final = """
    runs_in AS MATERIALIZED (
        SELECT u.role_name, u.policy_id, u.follows_latest FROM runs u WHERE u.tenant_id = $1 AND u.run_id IN (
            SELECT d.run_id FROM decisions d JOIN direct USING (decision_id) WHERE d.tenant_id = $1)
    )
"""
_OF_ROLES = f"""
    WITH {_SCOPE}, {_RUNS}, unpinned AS MATERIALIZED (
        SELECT role_name FROM runs_in WHERE policy_id IS NULL AND NOT follows_latest
    )
    SELECT r.name, r.version, r.rules::text AS rules,
        CASE WHEN r.name IN (SELECT role_name FROM unpinned) THEN r.source ELSE '' END AS source FROM roles r
    WHERE r.tenant_id = $1 AND r.name IN (SELECT role_name FROM runs_in)
        AND (r.rules <> '[]'::jsonb OR r.name IN (SELECT role_name FROM unpinned)) ORDER BY r.name, r.version
"""  # noqa: S608 (constant parts)
_POLICIES = f"""
    WITH {_SCOPE}, {_RUNS}
    SELECT p.version, p.engine_version, p.source, p.compiled, encode(p.policy_hash, 'hex') AS policy_hash FROM policies p
    WHERE p.tenant_id = $1 AND (p.policy_id IN (SELECT policy_id FROM runs_in)
        OR EXISTS (SELECT 1 FROM runs_in WHERE follows_latest)) ORDER BY p.version
"""  # noqa: S608 (constant parts)
_RECORDS = f"""
    WITH {_SCOPE}
    SELECT decision_id, kind, run_id, approval_id, {_ms_of("created_at")}, {_ms_of("superseded_at")},
        reply ->> 'message' AS message, part_a, part_b, encode(part_a_sha256, 'hex') AS part_a_sha256,
        (SELECT salt FROM run_salts s WHERE s.tenant_id = $1 AND s.run_id = decisions.run_id) AS salt
    FROM decisions WHERE tenant_id = $1 AND (decision_id IN (SELECT decision_id FROM direct)
        OR (approval_id IN (SELECT approval_id FROM asked) AND (kind = 'approval' OR verdict = 'needs_approval')))
    ORDER BY decision_id
"""  # noqa: S608 (constant parts)
_APPROVALS = f"""
    WITH {_SCOPE}
    SELECT approval_id, run_id, step, rule, approver_role, encode(binding, 'hex') AS binding,
        encode(coalesce(action_digest, sha256(action)), 'hex') AS action_digest,
        encode(CASE WHEN action_digest IS NULL THEN sha256(edited_action) ELSE edited_digest END, 'hex') AS edited_digest, requester_id,
        {_ms_of("expires_at")}, verdict, decided_by, {_ms_of("decided_at")}, consumed_by
    FROM approvals WHERE tenant_id = $1 AND approval_id IN (SELECT approval_id FROM asked) ORDER BY approval_id
"""  # noqa: S608 (constant parts)
_HOLDS = f"""
    WITH {_SCOPE}
    SELECT h.hold_id, h.decision_id, h.run_id, h.step, h.try, h.kind, encode(h.digest, 'hex') AS digest, h.idempotent, h.state,
        h.max_cost_nano_usd, h.cost_nano_usd, h.leg_cap_ids, h.leg_amounts, {_ms_of("created_at", "h")},
        {_ms_of("expires_at", "h")}, {_ms_of("lease_expires_at", "h")},
        {_ms_of("outward_at", "h")}, {_ms_of("unknown_at", "h")},
        {_ms_of("settled_at", "h")}, h.settled_by, h.superseded_at IS NOT NULL AS superseded,
        o.ok, o.error_code, o.cost_class, o.provider_request_id, o.simulated, {_ms_of("stored_at", "o")},
        encode(sha256(o.result), 'hex') AS result_sha256
    FROM holds h LEFT JOIN outcomes o ON o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id
    WHERE h.tenant_id = $1 AND h.hold_id IN (SELECT hold_id FROM held) ORDER BY h.hold_id
"""  # noqa: S608 (constant parts)
_ENTRIES: Final = """
    in_journal AS MATERIALIZED (
        SELECT j.*, $2::uuid IS NOT NULL OR j.entry_id BETWEEN (SELECT first FROM entries) AND (SELECT last FROM entries) AS counts
        FROM journal j WHERE j.tenant_id = $1 AND (j.hold_id IN (SELECT hold_id FROM held) OR CASE WHEN $2::uuid IS NULL
            THEN j.entry_id BETWEEN (SELECT first FROM entries) AND (SELECT last FROM entries)
            ELSE j.cap_ids && ARRAY(SELECT cap_id FROM run_caps) END)
    )
"""
# A cap's balances have to add up where all of its entries are in the file: of a run's own, and of a tenant's in its time
_CAPS = f"""
    WITH {_SCOPE}, {_ENTRIES}, named AS MATERIALIZED (
        SELECT DISTINCT unnest(cap_ids) AS cap_id FROM in_journal UNION SELECT cap_id FROM run_caps
    ), moved_before AS MATERIALIZED (
        SELECT l.cap_id, sum(l.reserved_delta) AS reserved, sum(l.committed_delta) AS committed, sum(l.debt_delta) AS debt
        FROM journal_legs l WHERE l.tenant_id = $1 AND $2::uuid IS NULL AND l.entry_id < (SELECT first FROM entries) GROUP BY 1
    ), moved_within AS MATERIALIZED (
        SELECT l.cap_id, sum(l.reserved) AS reserved, sum(l.committed) AS committed, sum(l.debt) AS debt
        FROM in_journal j, unnest(j.cap_ids, j.reserved_deltas, j.committed_deltas, j.debt_deltas)
            AS l (cap_id, reserved, committed, debt) WHERE j.counts GROUP BY 1
    )
    SELECT c.cap_id, c.scope_kind, c.scope_id, c.unit, c.window_kind, c.unlimited, c.limit_amount, c.reserved, c.committed, c.debt,
        $2::uuid IS NULL OR c.cap_id IN (SELECT cap_id FROM run_caps) AS whole,
        coalesce(b.reserved, 0) + coalesce(s.reserved, 0) AS opening_reserved,
        coalesce(b.committed, 0) + coalesce(s.committed, 0) AS opening_committed,
        coalesce(b.debt, 0) + coalesce(s.debt, 0) AS opening_debt,
        coalesce(w.reserved, 0) AS moved_reserved, coalesce(w.committed, 0) AS moved_committed, coalesce(w.debt, 0) AS moved_debt,
        $2::uuid IS NOT NULL OR NOT EXISTS (SELECT 1 FROM journal_legs l
            WHERE l.tenant_id = $1 AND l.cap_id = c.cap_id AND l.entry_id > (SELECT last FROM entries)) AS is_last
    FROM caps c JOIN named USING (cap_id) LEFT JOIN moved_before b USING (cap_id) LEFT JOIN moved_within w USING (cap_id)
    LEFT JOIN journal_sums s ON s.tenant_id = c.tenant_id AND s.cap_id = c.cap_id
    WHERE c.tenant_id = $1 ORDER BY c.cap_id
"""  # noqa: S608 (constant parts)
_JOURNAL = f"""
    WITH {_SCOPE}, {_ENTRIES}
    SELECT entry_id, {_ms_of("created_at")}, kind, hold_id, run_id, cap_ids, reserved_deltas, committed_deltas, debt_deltas,
        limit_amounts, unlimited, cost_nano_usd, tokens, calls, actor, reason, counts
    FROM in_journal ORDER BY entry_id
"""  # noqa: S608 (constant parts)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported: a run, or a tenant's time.

    Attributes:
        tenant_id: Whose.
        run_id: The run; None for all of the tenant in a time.
        since: From when.
        until: Before when.
    """

    tenant_id: UUID
    run_id: UUID | None
    since: datetime
    until: datetime

    @property
    def scope(self) -> Line:
        """What stands in the header."""
        if self.run_id is not None:
            return {"run_id": str(self.run_id), "from_ms": None, "to_ms": None}
        return {"run_id": None, "from_ms": _ms(self.since), "to_ms": _ms(self.until)}


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


async def read_content(connection: AsyncConnection, wanted: Wanted, origin: str) -> AsyncGenerator[Line, None]:
    """Yields the lines that an export's seal is over.

    Args:
        connection: A transaction in which nothing has been asked yet; it is used until the last line.
        wanted: What is to be exported.
        origin: Name of the tenant's log.

    Raises:
        NotFound: The tenant has no such run.
    """
    raw: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    await raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await raw.execute("SET LOCAL work_mem = '64MB'")
    header = await raw.fetchrow(_HEADER, wanted.tenant_id, wanted.run_id)
    if header is None or not header["found"]:
        raise NotFound(f"there is no run {wanted.run_id}")
    yield {
        "type": "header",
        "format": FORMAT,
        "v": VERSION,
        "tenant_id": str(wanted.tenant_id),
        "tenant": header["slug"],
        "scope": wanted.scope,
        "read_at_ms": header["read_at_ms"],
        "origin": origin,
    }
    arguments = (wanted.tenant_id, wanted.run_id, wanted.since, wanted.until)
    named = set[str]()
    async for line in _policies(raw, arguments):
        if str(line["policy_hash"]) not in named:  # roles may have said the same
            named.add(str(line["policy_hash"]))
            yield line
    for query, line_of in _LINES:
        async for row in raw.cursor(query, *arguments, prefetch=_FETCH):
            yield line_of(row)


_Row = Any  # Any: rows of asyncpg carry no types


async def _policies(raw: asyncpg.Connection, arguments: tuple[object, ...]) -> AsyncGenerator[Line, None]:
    """Yields what may have decided: versions of the policy; roles' tables of old, also said as policies; what a role itself says."""
    for row in await raw.fetch(_POLICIES, *arguments):
        form = orjson.loads(row["compiled"])
        yield _policy(row["policy_hash"], row["engine_version"], "", row["version"], form, row["source"])
    for row in await raw.fetch(_OF_ROLES, *arguments):
        sources = [row["source"]]
        if table := orjson.loads(row["rules"]):
            rules = tuple(map(rule_from_json, table))
            yield _policy(policy_hash(rules).hex(), TABLES_ENGINE, row["name"], row["version"], table, None)
            sources.append(policy_text({row["name"]: rules}))
        for source in filter(None, sources):
            policy = await asyncio.to_thread(_compiled, source)
            if policy is not None:
                told = (row["name"], row["version"], policy.to_json(), source)
                yield _policy(policy.policy_hash.hex(), POLICY_ENGINE, *told)


def _compiled(source: str) -> Policy | None:
    try:
        return compile_policy(source)
    except PolicyRefused:
        return None  # no run can be decided by it either


def _policy(policy_hash: str, engine: str, role: str, version: int, form: Any, source: str | None) -> Line:  # Any: JSON
    return {
        "type": "policy",
        "policy_hash": policy_hash,
        "engine": engine,
        "role": role,
        "version": version,
        "form": form,
        "source": source,
        "beside": None,
    }


def _record(row: _Row) -> Line:
    about: Line = {
        "decision_id": str(row["decision_id"]),
        "kind": row["kind"],
        "run_id": _text(row["run_id"]),
        "approval_id": _text(row["approval_id"]),
        "created_at_ms": row["created_at_ms"],
        "superseded_at_ms": row["superseded_at_ms"],
        "part_b": row["part_b"].decode(),
    }
    if row["part_a"] is None:
        return {"type": "deleted", **about, "part_a_sha256": row["part_a_sha256"]}
    whole: Line = {**about, "message": row["message"] or "", "part_a": row["part_a"].decode()}
    if not sealed.is_sealed(row["part_a"]):
        return {"type": "record", **whole}
    values = sealed.values_of(orjson.loads(row["part_a"]), row["salt"])
    if values is None:
        return {"type": "sealed", **whole, "salt": None, "opened": None}
    return {"type": "sealed", **whole, "salt": values.salt.hex(), "opened": values.by_pointer}


def _approval(row: _Row) -> Line:
    texts = ("approval_id", "run_id", "requester_id", "decided_by", "consumed_by")
    plain = (
        "step", "rule", "approver_role", "binding", "action_digest", "edited_digest", "expires_at_ms", "verdict", "decided_at_ms",
    )  # fmt: skip
    return {
        "type": "approval",
        **{name: _text(row[name]) for name in texts},
        **{name: row[name] for name in plain},
        "beside": None,
    }


def _hold(row: _Row) -> Line:
    plain = (
        "step", "try", "kind", "digest", "idempotent", "state", "created_at_ms", "expires_at_ms", "lease_expires_at_ms",
        "outward_at_ms", "unknown_at_ms", "settled_at_ms", "settled_by", "superseded",
    )  # fmt: skip
    outcome = ("ok", "error_code", "cost_class", "provider_request_id", "simulated", "stored_at_ms", "result_sha256")
    return {
        "type": "hold",
        **{name: str(row[name]) for name in ("hold_id", "decision_id", "run_id", "max_cost_nano_usd")},
        **{name: row[name] for name in plain},
        "cost_nano_usd": _text(row["cost_nano_usd"]),
        "legs": [
            {"cap_id": str(cap_id), "amount": str(amount)}
            for cap_id, amount in zip(row["leg_cap_ids"], row["leg_amounts"], strict=True)
        ],
        "outcome": None if row["ok"] is None else {name: row[name] for name in outcome},
    }


def _cap(row: _Row) -> Line:
    opening: Line | None = None
    closing: Line | None = None
    if row["whole"]:
        names = ("reserved", "committed", "debt")
        # whole numbers, though sums come as decimals, which may be written with an exponent
        opening = {name: str(int(row[f"opening_{name}"])) for name in names}
        # the balance itself, where nothing has moved since: so it is the cap's, and not only the journal's
        closing = {
            name: str(int(row[name] if row["is_last"] else row[f"opening_{name}"] + row[f"moved_{name}"]))
            for name in names
        }
    return {
        "type": "cap",
        "cap_id": str(row["cap_id"]),
        "scope_kind": row["scope_kind"],
        "scope_id": row["scope_id"],
        "unit": row["unit"],
        "window": row["window_kind"],
        "limit": None if row["unlimited"] else str(row["limit_amount"]),
        "opening": opening,
        "closing": closing,
    }


def _entry(row: _Row) -> Line:
    legs = zip(
        row["cap_ids"], row["reserved_deltas"], row["committed_deltas"], row["debt_deltas"], row["limit_amounts"], row["unlimited"],
        strict=True,
    )  # fmt: skip
    return {
        "type": "journal",
        "entry_id": row["entry_id"],
        "at_ms": row["created_at_ms"],
        **{name: row[name] for name in ("kind", "actor", "reason", "counts")},
        **{name: _text(row[name]) for name in ("hold_id", "run_id", "cost_nano_usd", "tokens", "calls")},
        "legs": [
            {
                "cap_id": str(cap_id),
                "reserved": str(reserved),
                "committed": str(committed),
                "debt": str(debt),
                "limit": None if unlimited else str(limit),
            }
            for cap_id, reserved, committed, debt, limit, unlimited in legs
        ],
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


_LINES: Final[tuple[tuple[str, Callable[[_Row], Line]], ...]] = (
    (_RECORDS, _record),
    (_APPROVALS, _approval),
    (_HOLDS, _hold),
    (_CAPS, _cap),
    (_JOURNAL, _entry),
)
