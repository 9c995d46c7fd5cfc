"""The runs that a run started are found without a look at all of its tenant's.

Revision ID: 0039
Revises: 0033
"""

from __future__ import annotations

from holdfast.database.online import create_index

revision = "0039"
down_revision = "0033"


def upgrade() -> None:
    """Builds the index while runs are admitted."""
    create_index("runs_children", "runs (tenant_id, parent_run_id, run_id) WHERE parent_run_id IS NOT NULL")
