"""The transparency log: one tree of decision records per tenant, its tiles, checkpoints, keys and witnesses.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from holdfast.database.online import create_index

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Makes the tables, what the store refuses of them, and the index that lets no number be given twice."""
    script = (Path(__file__).parent / "0007_log.sql").read_text(encoding="utf-8")
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(script)
    else:
        # many statements at once: asyncpg's simple protocol, which SQLAlchemy's own execute does not use
        op.get_bind().connection.dbapi_connection.run_async(  # type: ignore[union-attr]  # asyncpg's adapter
            lambda raw: raw.execute(script)
        )
    create_index("decisions_leaf", "decisions (tenant_id, leaf_index) WHERE leaf_index IS NOT NULL", unique=True)
