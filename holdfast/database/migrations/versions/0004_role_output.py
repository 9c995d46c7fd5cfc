"""What a role's agents may write in one call when neither they nor the caps say less.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    # not valid: what stands there has no value, and new rows are checked all the same
    "ALTER TABLE roles ADD COLUMN max_tokens_default integer",
    "ALTER TABLE roles ADD CONSTRAINT roles_max_tokens_default CHECK (max_tokens_default BETWEEN 256 AND 200000) NOT VALID",
)


def upgrade() -> None:
    """Adds the column; NULL is the default of all roles."""
    for statement in _STATEMENTS:
        op.execute(statement)
