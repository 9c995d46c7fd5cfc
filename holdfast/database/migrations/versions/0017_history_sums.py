"""Summaries of what happened, so that what a decision reads of the past does not grow with it.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"

_TABLES = (
    """
    CREATE TABLE history_folds (
        tenant_id uuid PRIMARY KEY REFERENCES tenants,
        newest    bigint NOT NULL DEFAULT 0 CHECK (newest >= 0) -- the number of the newest hold that was numbered; locked by who folds
    )
    """,
    """
    CREATE TABLE history_marks (
        tenant_id uuid NOT NULL REFERENCES tenants,
        selector  bytea NOT NULL CHECK (length(selector) = 32), -- what counts, and how: of a watch or a limit
        run_id    uuid NOT NULL,                                -- zero where it is the whole tenant's history
        newest    bigint NOT NULL CHECK (newest >= 0),          -- holds up to this number are in the sums
        PRIMARY KEY (tenant_id, selector, run_id)
    )
    """,
    """
    CREATE TABLE history_sums (
        tenant_id uuid NOT NULL REFERENCES tenants,
        selector  bytea NOT NULL CHECK (length(selector) = 32),
        scope     text NOT NULL,                                -- whose: the run's, the user's, … name
        key       bytea NOT NULL,                               -- digest of what past and present must have in common
        bucket_ms bigint NOT NULL,                              -- when the bucket begins
        until_ms  bigint NOT NULL,                              -- its newest event
        total     numeric NOT NULL CHECK (total >= 0),
        untold    bigint NOT NULL CHECK (untold >= 0),          -- events of which nobody can tell how much they count
        PRIMARY KEY (tenant_id, selector, scope, key, bucket_ms)
    )
    """,
)
_NAMES = ("history_folds", "history_marks", "history_sums")
_HOLDS = (
    # in the order in which they were found settled; without, a hold is in nobody's sums
    "ALTER TABLE holds ADD COLUMN history_seq bigint",
    "GRANT UPDATE (history_seq) ON holds TO holdfast_definer",
    "GRANT SELECT, INSERT, UPDATE (newest) ON history_folds, history_marks TO holdfast_governor",
    "GRANT SELECT, INSERT, UPDATE (until_ms, total, untold) ON history_sums TO holdfast_governor",
    """
    CREATE POLICY definer_all ON history_folds TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer')
    """,
    "GRANT SELECT, UPDATE (newest) ON history_folds TO holdfast_definer",
    # Numbers are given under the tenant's lock, so whoever sees one sees all below it: sums up to a number miss nothing.
    """
    CREATE FUNCTION number_history(p_tenant uuid, p_holds uuid[]) RETURNS TABLE (hold_id uuid, history_seq bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        v_newest bigint;
    BEGIN
        IF current_tenant() IS NOT NULL THEN
            PERFORM require_tenants(ARRAY[p_tenant]);
        END IF;
        SELECT f.newest INTO STRICT v_newest FROM history_folds f WHERE f.tenant_id = p_tenant FOR UPDATE;
        RETURN QUERY
            WITH ordered AS (
                SELECT h.hold_id, v_newest + row_number() OVER (ORDER BY h.created_at, h.hold_id) AS seq FROM holds h
                WHERE h.tenant_id = p_tenant AND h.hold_id = ANY (p_holds) AND h.settled_at IS NOT NULL AND h.history_seq IS NULL
            )
            UPDATE holds h SET history_seq = o.seq FROM ordered o WHERE h.tenant_id = p_tenant AND h.hold_id = o.hold_id
            RETURNING h.hold_id, h.history_seq;
        UPDATE history_folds f SET newest = v_newest + cardinality(p_holds) WHERE f.tenant_id = p_tenant;
    END $$
    """,
    "REVOKE ALL ON FUNCTION number_history(uuid, uuid[]) FROM PUBLIC",
    "GRANT CREATE ON SCHEMA public TO holdfast_definer",
    "ALTER FUNCTION number_history(uuid, uuid[]) OWNER TO holdfast_definer",
    "REVOKE CREATE ON SCHEMA public FROM holdfast_definer",
    "GRANT EXECUTE ON FUNCTION number_history(uuid, uuid[]) TO holdfast_governor",
)


def upgrade() -> None:
    """Creates the tables with their row-level security (LAW 5), and the number by which holds are folded in."""
    for statement in _TABLES:
        op.execute(statement)
    for name in _NAMES:
        op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {name} USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
    for statement in _HOLDS:
        op.execute(statement)
