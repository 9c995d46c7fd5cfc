"""Tools of a tenant's own, in versions, and which of them a run is pinned to.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    """
    CREATE TABLE tools (
        tenant_id  uuid NOT NULL REFERENCES tenants,
        name       text NOT NULL CHECK (length(name) <= 56 AND name ~ '^[a-z][a-z0-9_]*(\\.[a-z0-9_]+){1,3}$'),
        version    integer NOT NULL CHECK (version > 0),
        definition jsonb NOT NULL,
        digest     bytea NOT NULL CHECK (length(digest) = 32),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, name, version)
    )
    """,
    "ALTER TABLE tools ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE tools FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON tools USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    "GRANT SELECT ON tools TO holdfast_api, holdfast_governor, holdfast_broker, holdfast_sweeper, holdfast_auditor",
    "GRANT INSERT ON tools TO holdfast_api",
    # a constant default: no row is written, and the lock is held for a moment only
    "ALTER TABLE runs ADD COLUMN tools jsonb NOT NULL DEFAULT '{}'",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5), and the runs' pins."""
    for statement in _STATEMENTS:
        op.execute(statement)
