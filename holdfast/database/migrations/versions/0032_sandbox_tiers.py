"""How hard code of a tenant and of its roles is to be isolated, and how hard that of each run is.

Revision ID: 0032
Revises: 0031
"""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"

_STATEMENTS = (
    """
    CREATE TABLE sandbox_tiers (
        tenant_id  uuid NOT NULL REFERENCES tenants,
        role_name  text NOT NULL CHECK (length(role_name) <= 63), -- empty for the tenant itself
        tier       text CHECK (tier IN ('process', 'kernel')), -- none: nothing is asked for any more
        set_by     text NOT NULL,
        set_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, role_name)
    )
    """,
    "ALTER TABLE sandbox_tiers ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE sandbox_tiers FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON sandbox_tiers USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    "GRANT SELECT ON sandbox_tiers TO holdfast_api, holdfast_auditor",
    "GRANT INSERT, UPDATE (tier, set_by, set_at) ON sandbox_tiers TO holdfast_api",
    # runs of before have none, and ran in the only tier there was
    "ALTER TABLE runs ADD COLUMN sandbox_tier text",
    "ALTER TABLE runs ADD CONSTRAINT runs_sandbox_tier CHECK (sandbox_tier IN ('process', 'kernel')) NOT VALID",
)


def upgrade() -> None:
    """Makes the table with its row-level security (LAW 5), and adds the column."""
    for statement in _STATEMENTS:
        op.execute(statement)
