"""Approvals of several needs: votes, delegations, escalation, links and signers, decided by functions of the schema.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"

_SCRIPTS = ("0008_approvals.sql", "0008_voting.sql")


def upgrade() -> None:
    """Adds tables, columns and functions; what older programs read and write stays as it is."""
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
