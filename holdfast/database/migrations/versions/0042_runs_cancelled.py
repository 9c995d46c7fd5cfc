"""Finds the runs whose cancellation Temporal was not told of without a look at every open run.

Revision ID: 0042
Revises: 0041
"""

from __future__ import annotations

from holdfast.database.online import create_index

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    """Builds the index: each sweep asks for them, and runs may wait open by the hundred thousand."""
    create_index(
        "runs_cancelled",
        "runs (cancel_requested_at) WHERE cancel_requested_at IS NOT NULL AND cancel_signalled_at IS NULL AND ended_at IS NULL",
    )
