"""What a role may do as the text of a policy, with the cases that it was held against, in place of a table of rules.

Roles that were put as tables keep theirs: the policy that decides is made of both.

Revision ID: 0028
Revises: 0021
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0028"
down_revision = "0021"

_STATEMENT: Final = """
    ALTER TABLE roles ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '', ADD COLUMN IF NOT EXISTS cases text NOT NULL DEFAULT ''
"""


def upgrade() -> None:
    """Adds the columns; an empty text is that of a role with a table, or with neither."""
    op.execute(_STATEMENT)
