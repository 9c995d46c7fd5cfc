"""The workflow's history of each run that has ended, as it was then.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

_STATEMENTS = (
    """
    CREATE TABLE run_histories (
        tenant_id uuid NOT NULL,
        run_id    uuid NOT NULL,
        piece     integer NOT NULL CHECK (piece >= 0),
        data      bytea NOT NULL CHECK (length(data) BETWEEN 1 AND 262144),     -- compressed; its payloads are encrypted
        PRIMARY KEY (tenant_id, run_id, piece),
        FOREIGN KEY (tenant_id, run_id) REFERENCES runs
    )
    """,
    "ALTER TABLE run_histories ALTER data SET STORAGE EXTERNAL",  # it is compressed already
    "ALTER TABLE run_histories ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE run_histories FORCE ROW LEVEL SECURITY",
    "CREATE POLICY tenant_only ON run_histories USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
    "GRANT SELECT ON run_histories TO holdfast_api, holdfast_auditor",
    "GRANT INSERT ON run_histories TO holdfast_sweeper",
)


def upgrade() -> None:
    """Creates the table with its row-level security (LAW 5); nobody may change or remove what is in it."""
    for statement in _STATEMENTS:
        op.execute(statement)
