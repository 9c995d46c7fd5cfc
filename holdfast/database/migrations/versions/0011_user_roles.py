"""The roles of the key that started a run, for rules that ask for them.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds the column. Of runs that are there nobody knows it, and what is unknown allows nothing (LAW 7)."""
    op.execute("ALTER TABLE runs ADD user_roles text[]")
