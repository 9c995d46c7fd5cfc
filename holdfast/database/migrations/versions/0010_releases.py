"""Releases of what a run has read under a label.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

_STATEMENTS = (
    """
    CREATE TABLE releases (
        tenant_id   uuid NOT NULL,
        release_id  uuid NOT NULL,
        run_id      uuid NOT NULL,
        label       text NOT NULL CHECK (length(label) BETWEEN 1 AND 63),
        released_by text NOT NULL,
        roles       text[] NOT NULL,
        reason      text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
        decision_id uuid NOT NULL,
        open_holds  uuid[] NOT NULL,                        -- what was under way, and so is not released
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, run_id, release_id),
        FOREIGN KEY (tenant_id, run_id) REFERENCES runs
    )
    """,
    "ALTER TABLE releases ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE releases FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON releases USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    "GRANT SELECT ON releases TO holdfast_api, holdfast_governor, holdfast_auditor",
    "GRANT INSERT ON releases TO holdfast_api",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5)."""
    for statement in _STATEMENTS:
        op.execute(statement)
