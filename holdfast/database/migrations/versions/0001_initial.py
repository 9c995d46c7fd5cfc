"""The first schema: tables, row-level security, rights per process.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates all tables, then forces row-level security and grants each process what it may do."""
    here = Path(__file__).parent
    scripts = [(here / name).read_text(encoding="utf-8") for name in ("0001_initial.sql", "0001_access.sql")]
    # many statements at once: asyncpg's simple protocol, which SQLAlchemy's own execute does not use
    op.get_bind().connection.dbapi_connection.run_async(  # type: ignore[union-attr]  # asyncpg's adapter
        lambda raw: raw.execute("\n".join(scripts))
    )
