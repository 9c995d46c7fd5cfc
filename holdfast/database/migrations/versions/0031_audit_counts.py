"""Counts for who watches the audit side: decisions by verdict and code, as far as they were counted; what was refused or checked.

Decisions are counted when somebody asks, from where the last count ended: whoever decides or numbers writes nothing for it.

Revision ID: 0031
Revises: 0030
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0031"
down_revision = "0030"

_STATEMENTS: Final = (
    """
    CREATE TABLE decision_counts (
        tenant_id uuid NOT NULL REFERENCES tenants,
        verdict   text NOT NULL CHECK (verdict IN ('allow', 'deny', 'needs_approval')),
        code      text NOT NULL CHECK (length(code) <= 200),
        count     bigint NOT NULL CHECK (count > 0),
        PRIMARY KEY (tenant_id, verdict, code)
    )
    """,
    """
    CREATE TABLE counted_decisions (
        tenant_id uuid PRIMARY KEY REFERENCES tenants,
        size      bigint NOT NULL DEFAULT 0 CHECK (size >= 0)   -- records of the log, from the first on, that are in the counts
    )
    """,
    """
    CREATE TABLE audit_counts (
        tenant_id uuid NOT NULL REFERENCES tenants,
        event     text NOT NULL CHECK (event IN ('cosignature_refused', 'cross_check', 'cross_check_difference')),
        detail    text NOT NULL CHECK (length(detail) BETWEEN 1 AND 100),
        count     bigint NOT NULL CHECK (count > 0),
        PRIMARY KEY (tenant_id, event, detail)
    )
    """,
    *(
        statement
        for table in ("decision_counts", "counted_decisions", "audit_counts")
        for statement in (
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY tenant_only ON {table} USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())",
            f"GRANT SELECT ON {table} TO holdfast_api, holdfast_auditor",
            f"GRANT INSERT ON {table} TO holdfast_api",
        )
    ),
    "GRANT UPDATE (count) ON decision_counts, audit_counts TO holdfast_api",
    "GRANT UPDATE (size) ON counted_decisions TO holdfast_api",
)


def upgrade() -> None:
    """Creates the tables with their row-level security (LAW 5)."""
    for statement in _STATEMENTS:
        op.execute(statement)
