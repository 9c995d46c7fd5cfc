"""The files that a run is given, by name and digest; their contents lie in object storage.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

_STATEMENTS = (
    """
    CREATE TABLE run_files (
        tenant_id  uuid NOT NULL,
        run_id     uuid NOT NULL,
        name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 808),
        size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
        sha256     bytea NOT NULL CHECK (length(sha256) = 32),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, run_id, name),
        FOREIGN KEY (tenant_id, run_id) REFERENCES runs
    )
    """,
    "ALTER TABLE run_files ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE run_files FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON run_files USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    "GRANT SELECT ON run_files TO holdfast_api, holdfast_governor, holdfast_auditor",
    "GRANT INSERT ON run_files TO holdfast_api",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5)."""
    for statement in _STATEMENTS:
        op.execute(statement)
