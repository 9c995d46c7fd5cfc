"""`python -m holdfast.ledger.auditor [--json]`: recomputes the ledger from its journal and names every discrepancy.

It reads with the auditor's role, tenant by tenant, each in one snapshot, so it may run beside live traffic. Exit code 0 = the
books are right, 1 = they are not, 2 = it could not look.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from holdfast.database.engine import create_engine, tenantless
from holdfast.errors import ConfigurationInvalid, HoldfastError, Unavailable
from holdfast.settings import AuditorSettings, load

# Each query returns what is wrong: the subject's id, and a sentence.
_CHECKS: Final[dict[str, TextClause]] = {
    "cap.balance": text("""
        SELECT c.cap_id, format('balances are reserved %s, committed %s, debt %s; the journal adds up to %s, %s, %s',
            c.reserved, c.committed, c.debt, coalesce(j.reserved, 0), coalesce(j.committed, 0), coalesce(j.debt, 0))
        FROM caps c LEFT JOIN (
            SELECT cap_id, sum(reserved) AS reserved, sum(committed) AS committed, sum(debt) AS debt FROM (
                SELECT cap_id, reserved_delta AS reserved, committed_delta AS committed, debt_delta AS debt
                FROM journal_legs WHERE tenant_id = :tenant_id
                UNION ALL SELECT cap_id, reserved, committed, debt FROM journal_sums WHERE tenant_id = :tenant_id) moved
            GROUP BY cap_id) j USING (cap_id)
        WHERE c.tenant_id = :tenant_id AND (c.reserved, c.committed, c.debt)
            IS DISTINCT FROM (coalesce(j.reserved, 0), coalesce(j.committed, 0), coalesce(j.debt, 0))
    """),
    "cap.limit": text("""
        SELECT c.cap_id, format('the limit is %s, the newest journal entry says %s', CASE WHEN c.unlimited THEN 'none'
            ELSE c.limit_amount::text END, CASE WHEN j.unlimited THEN 'none' ELSE j.limit_amount::text END)
        FROM caps c JOIN (
            SELECT DISTINCT ON (cap_id) cap_id, limit_amount, unlimited FROM (
                SELECT cap_id, entry_id, limit_amount, unlimited FROM journal_legs WHERE tenant_id = :tenant_id
                UNION ALL SELECT cap_id, last_entry_id, limit_amount, unlimited FROM journal_sums
                WHERE tenant_id = :tenant_id) said
            ORDER BY cap_id, entry_id DESC) j USING (cap_id)
        WHERE c.tenant_id = :tenant_id AND (c.limit_amount, c.unlimited) IS DISTINCT FROM (j.limit_amount, j.unlimited)
    """),
    "cap.windows": text("""
        SELECT cap_id, CASE WHEN ends_at > next_starts_at
            THEN format('its window ends %s, and the next one has begun %s', ends_at, next_starts_at)
            ELSE 'of the windows of one cap, not the last but another is in force' END
        FROM (SELECT *, lead(starts_at) OVER w AS next_starts_at, lead(cap_id) OVER w IS NULL AS is_last FROM caps
            WHERE tenant_id = :tenant_id WINDOW w AS (PARTITION BY scope_kind, scope_id, unit, window_kind ORDER BY starts_at)) c
        WHERE ends_at > next_starts_at OR newest <> is_last
    """),
    "cap.ceiling": text("""
        SELECT cap_id, format('reserved %s and committed %s are over the ceiling %s, or it is too high', reserved, committed, ceiling)
        FROM (SELECT cap_id, limit_amount, ceiling, carried_reserved + reserved AS reserved, carried_committed + committed AS committed
            FROM caps WHERE tenant_id = :tenant_id AND NOT unlimited) c
        WHERE reserved + committed > ceiling OR ceiling > greatest(limit_amount, reserved + committed)
    """),
    "cap.carried": text("""
        SELECT c.cap_id, format('it carries reserved %s, committed %s, debt %s; the older buckets that count have '
            '%s, %s, %s, and %s of them another limit', c.carried_reserved, c.carried_committed, c.carried_debt,
            coalesce(sum(b.reserved), 0), coalesce(sum(b.committed), 0), coalesce(sum(b.debt), 0), count(b.cap_id) FILTER (WHERE
                (b.limit_amount, b.unlimited) IS DISTINCT FROM (c.limit_amount, c.unlimited)))
        FROM caps c LEFT JOIN caps b ON b.tenant_id = c.tenant_id AND b.scope_kind = c.scope_kind AND b.scope_id = c.scope_id
            AND b.unit = c.unit AND b.window_kind = c.window_kind AND b.cap_id <> c.cap_id
            AND b.ends_at > c.starts_at - make_interval(hours => c.rolling_hours)
        WHERE c.tenant_id = :tenant_id AND c.newest AND c.rolling_hours IS NOT NULL GROUP BY c.tenant_id, c.cap_id
        HAVING (c.carried_reserved, c.carried_committed, c.carried_debt)
                IS DISTINCT FROM (coalesce(sum(b.reserved), 0), coalesce(sum(b.committed), 0), coalesce(sum(b.debt), 0))
            OR bool_or((b.limit_amount, b.unlimited) IS DISTINCT FROM (c.limit_amount, c.unlimited)) FILTER (WHERE b.cap_id IS NOT NULL)
    """),
    "cap.reserved": text("""
        SELECT c.cap_id, format('reserved is %s, its open holds come to %s', c.reserved, coalesce(o.amount, 0))
        FROM caps c LEFT JOIN (
            SELECT l.cap_id, sum(l.amount) AS amount FROM hold_legs l
            JOIN holds h ON h.tenant_id = l.tenant_id AND h.hold_id = l.hold_id
            WHERE l.tenant_id = :tenant_id AND h.settled_at IS NULL GROUP BY l.cap_id) o USING (cap_id)
        WHERE c.tenant_id = :tenant_id AND c.reserved <> coalesce(o.amount, 0)
    """),
    "journal.overdrawn": text("""
        SELECT j.cap_id, format('entry %s takes %s and makes %s of %s', j.entry_id, j.reserved_delta,
            j.used + coalesce(s.used, 0), j.limit_amount) FROM (
            SELECT *, sum(reserved_delta + committed_delta + debt_delta) OVER (PARTITION BY cap_id ORDER BY entry_id) AS used
            FROM journal_legs WHERE tenant_id = :tenant_id) j
        LEFT JOIN (SELECT cap_id, last_entry_id, reserved + committed + debt AS used FROM journal_sums
            WHERE tenant_id = :tenant_id) s ON s.cap_id = j.cap_id
        -- of two transactions at the turn of an archived month, the later entry may be the archived one
        WHERE j.kind = 'reserve' AND j.reserved_delta > 0 AND NOT j.unlimited AND j.entry_id > coalesce(s.last_entry_id, 0)
            AND j.used + coalesce(s.used, 0) > j.limit_amount
    """),
    # The same over all buckets of a rolling window that counted then: what was moved while its newest was the newest, and before that
    "journal.rolling": text("""
        WITH buckets AS (
            SELECT cap_id, ARRAY[scope_kind, scope_id, unit, window_kind] AS family, starts_at, ends_at,
                rolling_hours * interval '1 hour' AS long
            FROM caps WHERE tenant_id = :tenant_id AND rolling_hours IS NOT NULL
        ), moved AS (
            SELECT b.*, j.entry_id, j.kind, j.reserved_delta, j.limit_amount, j.unlimited,
                j.reserved_delta + j.committed_delta + j.debt_delta AS used,
                max(b.starts_at) OVER (PARTITION BY b.family ORDER BY j.entry_id) AS newest_at
            FROM journal_legs j JOIN buckets b USING (cap_id) WHERE j.tenant_id = :tenant_id
        ), before AS (
            SELECT family, starts_at, long, newest_at, sum(used) AS used FROM moved GROUP BY 1, 2, 3, 4
            UNION ALL SELECT b.family, b.starts_at, b.long, '-infinity', s.reserved + s.committed + s.debt
            FROM journal_sums s JOIN buckets b USING (cap_id) WHERE s.tenant_id = :tenant_id
        ), carried AS (
            SELECT family, hour AS newest_at, sum(used) AS used
            FROM before, generate_series(starts_at + interval '1 hour', starts_at + long, interval '1 hour') AS hour
            WHERE newest_at < hour GROUP BY 1, 2
        )
        SELECT m.cap_id, format('entry %s takes %s and makes %s of %s in the hours that count', m.entry_id, m.reserved_delta,
            m.used + coalesce(c.used, 0), m.limit_amount)
        FROM (SELECT cap_id, family, newest_at, starts_at, entry_id, kind, reserved_delta, limit_amount, unlimited,
                sum(used) FILTER (WHERE ends_at > newest_at - long) OVER (PARTITION BY family, newest_at ORDER BY entry_id) AS used
            FROM moved) m
        LEFT JOIN carried c USING (family, newest_at)
        WHERE m.kind = 'reserve' AND m.reserved_delta > 0 AND NOT m.unlimited AND m.starts_at = m.newest_at
            AND m.entry_id > (SELECT coalesce(max(last_entry_id), 0) FROM journal_sums WHERE tenant_id = :tenant_id)
            AND m.used + coalesce(c.used, 0) > m.limit_amount
    """),
    # an entry is as old as what it says of its hold: both are of one transaction. What is older than the archives is in them, or came
    # when its month had been archived and is here; that it is not in both, the files prove (`archive.hold`)
    "leg.journal": text("""
        SELECT h.hold_id, format('the hold of %s on %s is %s; the journal has %s reservations (%s) and %s settlements (%s, %s)',
            h.leg_amounts, h.leg_cap_ids, h.state, coalesce(j.reserves, 0), j.reserved, coalesce(j.settlements, 0), j.settled_as,
            j.returned)
        FROM holds h LEFT JOIN (SELECT max(ends_at) AS through FROM journal_archives WHERE tenant_id = :tenant_id) a ON true
        LEFT JOIN (
            SELECT hold_id, count(*) FILTER (WHERE kind = 'reserve') AS reserves,
                count(*) FILTER (WHERE kind <> 'reserve') AS settlements, min(kind) FILTER (WHERE kind <> 'reserve') AS settled_as,
                min(cap_ids) FILTER (WHERE kind = 'reserve') AS reserved_caps,
                min(reserved_deltas) FILTER (WHERE kind = 'reserve') AS reserved,
                min(created_at) FILTER (WHERE kind = 'reserve') AS reserved_at,
                min(cap_ids) FILTER (WHERE kind <> 'reserve') AS returned_caps,
                min(reserved_deltas) FILTER (WHERE kind <> 'reserve') AS returned,
                min(created_at) FILTER (WHERE kind <> 'reserve') AS returned_at
            FROM journal WHERE tenant_id = :tenant_id AND hold_id IS NOT NULL GROUP BY hold_id) j ON j.hold_id = h.hold_id
        WHERE h.tenant_id = :tenant_id AND (
            coalesce(j.reserves, 0) <> CASE WHEN h.leg_cap_ids = '{}'
                    OR (h.created_at < a.through AND j.reserved_at IS NULL) THEN 0 ELSE 1 END
            OR (h.created_at < a.through AND j.reserved_at >= a.through) OR (h.settled_at < a.through AND j.returned_at >= a.through)
            OR (j.reserves > 0 AND (j.reserved_caps, j.reserved) IS DISTINCT FROM (h.leg_cap_ids, h.leg_amounts))
            OR (coalesce(j.settlements, 0) <> CASE WHEN h.settled_at IS NULL
                    OR (h.settled_at < a.through AND j.returned_at IS NULL) THEN 0 ELSE 1 END
                AND NOT (h.leg_cap_ids = '{}' AND coalesce(j.settlements, 0) = 0))
            OR (j.settlements > 0 AND (j.settled_as IS DISTINCT FROM
                    CASE h.state WHEN 'committed' THEN 'commit' WHEN 'voided' THEN 'void' WHEN 'expired' THEN 'expire' END
                OR (j.returned_caps, j.returned) IS DISTINCT FROM (h.leg_cap_ids,
                    ARRAY(SELECT -l.amount FROM unnest(h.leg_amounts) WITH ORDINALITY AS l (amount, place) ORDER BY l.place)))))
    """),
    "journal.leg": text("""
        SELECT j.hold_id, format('entry %s (%s) on %s belongs to no leg of a hold', j.entry_id, j.kind, j.cap_ids)
        FROM journal j LEFT JOIN holds h ON h.tenant_id = j.tenant_id AND h.hold_id = j.hold_id
        WHERE j.tenant_id = :tenant_id AND j.kind IN ('reserve', 'commit', 'void', 'expire')
            AND j.cap_ids IS DISTINCT FROM h.leg_cap_ids
    """),
    "hold.cost": text("""
        SELECT h.hold_id, format('it cost %s, and cap %s was charged %s', h.cost_nano_usd, j.cap_id, j.committed_delta + j.debt_delta)
        FROM holds h JOIN journal_legs j
            ON j.tenant_id = h.tenant_id AND j.hold_id = h.hold_id AND j.kind IN ('commit', 'void', 'expire')
        JOIN caps c ON c.tenant_id = j.tenant_id AND c.cap_id = j.cap_id AND c.unit = 'nano_usd'
        WHERE h.tenant_id = :tenant_id AND coalesce(h.cost_nano_usd, 0) <> j.committed_delta + j.debt_delta
    """),
    # what a retention has taken from the journal cannot be added up any more: days from the second after it are compared
    "rollup.journal": text("""
        WITH since AS (
            SELECT (coalesce(max(through), '-infinity') AT TIME ZONE 'UTC')::date + 1 AS day FROM journal_sums
            WHERE tenant_id = :tenant_id
        ), booked AS (
            SELECT day, run_id, kind, tool, model, simulated, project_id, user_id, agent, role, holds, calls, tokens, input_tokens,
                cached_tokens, cost_nano_usd FROM rollups WHERE tenant_id = :tenant_id AND day > (SELECT day FROM since)
        ), settled AS (
            SELECT j.day, j.run_id, h.kind, h.tool, coalesce(h.estimate #>> '{prices_used,model}', '') AS model, j.simulated,
                r.project_id, r.user_id, r.agent_name AS agent, r.role_name AS role, count(*) AS holds, sum(j.calls) AS calls,
                sum(j.tokens) AS tokens, sum(coalesce(j.input_tokens, 0)) AS input_tokens,
                sum(coalesce(j.cached_tokens, 0)) AS cached_tokens, sum(j.cost_nano_usd) AS cost_nano_usd
            FROM journal j JOIN holds h ON h.tenant_id = j.tenant_id AND h.hold_id = j.hold_id
            LEFT JOIN runs r ON r.tenant_id = j.tenant_id AND r.run_id = j.run_id
            WHERE j.tenant_id = :tenant_id AND j.kind = 'commit' AND h.kind <> 'run.budget'
                AND (j.day IS NULL OR j.day > (SELECT day FROM since))
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
        )
        SELECT run_id, format('on %s, %s %s %s: the rollup has %s holds, %s calls, %s tokens (%s in, %s cached) for %s; '
            'the journal adds up to %s, %s, %s (%s, %s) for %s', day, kind, tool, model,
            coalesce(b.holds, 0), coalesce(b.calls, 0), coalesce(b.tokens, 0), coalesce(b.input_tokens, 0),
            coalesce(b.cached_tokens, 0), coalesce(b.cost_nano_usd, 0), coalesce(j.holds, 0), coalesce(j.calls, 0),
            coalesce(j.tokens, 0), coalesce(j.input_tokens, 0), coalesce(j.cached_tokens, 0), coalesce(j.cost_nano_usd, 0))
        FROM booked b FULL JOIN settled j USING (day, run_id, kind, tool, model, simulated, project_id, user_id, agent, role)
        WHERE (b.holds, b.calls, b.tokens, b.input_tokens, b.cached_tokens, b.cost_nano_usd)
            IS DISTINCT FROM (j.holds, j.calls, j.tokens, j.input_tokens, j.cached_tokens, j.cost_nano_usd)
    """),
    "hold.decision": text("""
        SELECT h.hold_id, 'no decision that allows stands behind it' FROM holds h
        WHERE h.tenant_id = :tenant_id AND NOT EXISTS (
            SELECT 1 FROM decisions d WHERE d.tenant_id = h.tenant_id AND d.decision_id = h.decision_id AND d.verdict = 'allow')
    """),
    "decision.hold": text("""
        SELECT d.decision_id, format('it allowed hold %s, which does not exist', d.hold_id) FROM decisions d
        WHERE d.tenant_id = :tenant_id AND d.hold_id IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM holds h WHERE h.tenant_id = d.tenant_id AND h.hold_id = d.hold_id)
    """),
    # of a part A that was deleted its hash is there, and the record hash is made of that one; without either it cannot be right
    "decision.hash": text("""
        SELECT decision_id, 'its record does not hash to its record hash' FROM decisions
        WHERE tenant_id = :tenant_id AND record_hash
            IS DISTINCT FROM sha256('\\x00'::bytea || coalesce(sha256(part_a), part_a_sha256) || sha256(part_b))
    """),
    "hold.outcome": text("""
        SELECT h.hold_id, 'it is executed and has no outcome' FROM holds h
        WHERE h.tenant_id = :tenant_id AND h.state = 'executed' AND NOT EXISTS (
            SELECT 1 FROM outcomes o WHERE o.tenant_id = h.tenant_id AND o.hold_id = h.hold_id)
    """),
}

_TENANTS = text("SELECT tenant_id, slug FROM list_tenants()")
_SET_TENANT = text("SELECT set_config('holdfast.tenant_id', :tenant_id, true)")
# Nothing is looked up row by row: whatever the planner knows of the tables, or does not, the time grows as the books do.
_SET_PLANNER = (text("SET LOCAL enable_nestloop = off"), text("SET LOCAL work_mem = '64MB'"))
# As any reading does, but before the snapshot is taken: a month that is archived meanwhile is gone from neither journal nor sums.
_SEE_MONTHS = text("LOCK TABLE ONLY journal IN ACCESS SHARE MODE")
_COUNTS = text("""
    SELECT (SELECT count(*) FROM caps WHERE tenant_id = :tenant_id), (SELECT count(*) FROM holds WHERE tenant_id = :tenant_id),
        (SELECT count(*) FROM journal_legs WHERE tenant_id = :tenant_id)
""")


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Something in the books that cannot be.

    Attributes:
        check: Which rule it breaks.
        tenant: Slug of the tenant.
        subject_id: Id of the cap, hold or decision.
        message: What is wrong with it.
    """

    check: str
    tenant: str
    subject_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at, and what was found."""

    tenants: int
    caps: int
    holds: int
    journal_entries: int
    discrepancies: tuple[Discrepancy, ...]


@asynccontextmanager
async def snapshot(engine: AsyncEngine, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
    """Opens a read-only transaction in which all queries see one moment."""
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            for statement in (_SEE_MONTHS, *_SET_PLANNER):
                await connection.execute(statement)
            await connection.execute(_SET_TENANT, {"tenant_id": str(tenant_id)})
            yield connection


def _silent(_: str) -> None:
    pass


async def tenants_of(engine: AsyncEngine) -> Sequence[tuple[UUID, str]]:
    """Returns id and slug of every tenant."""
    async with tenantless(engine) as connection:
        return [(row[0], row[1]) for row in await connection.execute(_TENANTS)]


async def audit(engine: AsyncEngine, say: Callable[[str], None] = _silent) -> Audit:
    """Checks the books of every tenant.

    Args:
        engine: As the role `holdfast_auditor`.
        say: Gets a line for each check that begins.
    """
    caps = holds = entries = 0
    found: list[Discrepancy] = []
    tenants = await tenants_of(engine)
    for number, (tenant_id, slug) in enumerate(tenants, 1):
        async with snapshot(engine, tenant_id) as connection:
            counts = (await connection.execute(_COUNTS, {"tenant_id": tenant_id})).one()
            caps, holds, entries = caps + counts[0], holds + counts[1], entries + counts[2]
            for check, query in _CHECKS.items():
                say(f"tenant {number} of {len(tenants)}, {slug}: {check}")
                rows = await connection.execute(query, {"tenant_id": tenant_id})
                found.extend(Discrepancy(check, slug, str(row[0]), row[1]) for row in rows)
    return Audit(len(tenants), caps, holds, entries, tuple(found))


async def _main(arguments: Sequence[str]) -> int:
    if set(arguments) - {"--json"}:
        raise ConfigurationInvalid(f"unknown argument {arguments[0]!r}", remedy="the only one is --json")
    settings = load(AuditorSettings)
    engine = create_engine(settings.auditor_database_url, process="auditor", pool_size=1)
    try:
        result = await audit(engine)
    except (OSError, SQLAlchemyError) as error:
        raise Unavailable(f"cannot read the books: {error}", remedy="check the database and its URL") from None
    finally:
        await engine.dispose()
    if "--json" in arguments:
        print(orjson.dumps({"ok": not result.discrepancies, **asdict(result)}).decode())
    else:
        for one in result.discrepancies:
            print(f"{one.tenant}: {one.check}: {one.subject_id}: {one.message}")
        print(
            f"{len(result.discrepancies)} discrepancies in {result.tenants} tenants, {result.caps} caps, "
            f"{result.holds} holds, {result.journal_entries} journal entries"
        )
    return 1 if result.discrepancies else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main(sys.argv[1:])))
    except HoldfastError as error:
        print(f"error: {error.message}. {error.remedy}", file=sys.stderr)
        sys.exit(2)
