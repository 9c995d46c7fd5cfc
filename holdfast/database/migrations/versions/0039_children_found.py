"""The runs that a run started are found without a look at all of its tenant's.

Revision ID: 0039
Revises: 0033
"""

from __future__ import annotations

from alembic import op

revision = "0039"
down_revision = "0033"


def upgrade() -> None:
    """Makes the index."""
    op.execute("CREATE INDEX runs_children ON runs (tenant_id, parent_run_id, run_id) WHERE parent_run_id IS NOT NULL")
