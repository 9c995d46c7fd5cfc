"""Salts of personal values, for how long records are kept, legal holds, erasures.

Revision ID: 0033
Revises: 0032
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from holdfast.database.online import outside_transaction, validate_constraint

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Makes the tables and what may delete, and gives salts to runs that still go on."""
    script = (Path(__file__).parent / "0033_retention.sql").read_text(encoding="utf-8")
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(script)
    else:
        # many statements at once: asyncpg's simple protocol, which SQLAlchemy's own execute does not use
        op.get_bind().connection.dbapi_connection.run_async(  # type: ignore[union-attr]  # asyncpg's adapter
            lambda raw: raw.execute(script)
        )
    with outside_transaction():
        op.execute("CALL fill_run_salts()")
    validate_constraint("decisions", "decisions_part_a")
