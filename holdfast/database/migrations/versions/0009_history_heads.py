"""One row a tenant that decisions by the history of many runs compare and raise, so that none of them passes by another.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

_STATEMENTS = (
    """
    CREATE TABLE history_heads (
        tenant_id uuid PRIMARY KEY REFERENCES tenants,
        version   bigint NOT NULL                           -- raised by each allow that other runs' decisions may count
    )
    """,
    "ALTER TABLE history_heads ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE history_heads FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON history_heads USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    """
    CREATE POLICY definer_all ON history_heads TO holdfast_definer USING (current_user = 'holdfast_definer')
    WITH CHECK (current_user = 'holdfast_definer')
    """,
    "GRANT SELECT ON history_heads TO holdfast_governor",
    "GRANT SELECT, INSERT, UPDATE (version) ON history_heads TO holdfast_definer",
    # Before everything else that a decision locks, and in one order.
    """
    CREATE FUNCTION lock_history(p_tenants uuid[]) RETURNS TABLE (tenant_id uuid, version bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        IF current_tenant() IS NOT NULL THEN
            PERFORM require_tenants(p_tenants);
        END IF;
        INSERT INTO history_heads AS new SELECT DISTINCT x, 0 FROM unnest(p_tenants) AS x ORDER BY x ON CONFLICT DO NOTHING;
        RETURN QUERY SELECT h.tenant_id, h.version FROM history_heads h WHERE h.tenant_id = ANY (p_tenants)
            ORDER BY h.tenant_id FOR UPDATE OF h;
    END $$
    """,
    """
    CREATE FUNCTION raise_history(p_tenants uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        IF current_tenant() IS NOT NULL THEN
            PERFORM require_tenants(p_tenants);
        END IF;
        UPDATE history_heads h SET version = h.version + 1 WHERE h.tenant_id = ANY (p_tenants);
    END $$
    """,
    "REVOKE ALL ON FUNCTION lock_history(uuid[]), raise_history(uuid[]) FROM PUBLIC",
    "GRANT CREATE ON SCHEMA public TO holdfast_definer",
    "ALTER FUNCTION lock_history(uuid[]) OWNER TO holdfast_definer",
    "ALTER FUNCTION raise_history(uuid[]) OWNER TO holdfast_definer",
    "REVOKE CREATE ON SCHEMA public FROM holdfast_definer",
    "GRANT EXECUTE ON FUNCTION lock_history(uuid[]), raise_history(uuid[]) TO holdfast_governor",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5), and what decisions call."""
    for statement in _STATEMENTS:
        op.execute(statement)
