"""The ledger as set-based functions: many members a transaction, and no other way to a balance, a hold or the journal.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
oldest_program = "0003"
"""Holds and journal have another form from here on: what wrote the old one has to be stopped first."""

_SCRIPTS = (
    "0003_tables.sql",
    "0003_caps.sql",
    "0003_reserve.sql",
    "0003_settle.sql",
    "0003_execute.sql",
    "0003_rights.sql",
    "0003_webhooks.sql",
)


def upgrade() -> None:
    """Moves holds and journal into their new form, and makes the functions and the rights for them."""
    here = Path(__file__).parent
    scripts = [(here / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output("\n".join(scripts))
        return
    # many statements at once: asyncpg's simple protocol, which SQLAlchemy's own execute does not use
    op.get_bind().connection.dbapi_connection.run_async(  # type: ignore[union-attr]  # asyncpg's adapter
        lambda raw: raw.execute("\n".join(scripts))
    )
