"""Indexes by which the actions are found that are in no sums yet.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

from holdfast.database.online import create_index

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Builds the indexes while holds are taken."""
    create_index("holds_history_of_run", "holds (tenant_id, run_id, history_seq) WHERE superseded_at IS NULL")
    create_index("holds_history", "holds (tenant_id, history_seq) WHERE superseded_at IS NULL")
