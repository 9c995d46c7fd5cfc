"""What migrations do outside of a transaction, so that a live database keeps working: indexes, and checks of old rows.

Each step can be done again: whoever was killed in the middle has left nothing that a second try would stumble over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from alembic import op
from sqlalchemy import text

# What waits here holds up no reader and no writer, so it may wait long; it is bounded all the same.
_LOCK_TIMEOUT: Final = "60s"
_STATEMENT_TIMEOUT: Final = "1h"

_IS_INVALID = text("""
    SELECT 1 FROM pg_index i WHERE i.indexrelid = to_regclass(:name) AND NOT i.indisvalid
""")


@contextmanager
def outside_transaction() -> Iterator[None]:
    """Commits what the migration has done so far; each statement in the block is a transaction of its own."""
    context = op.get_context()
    with context.autocommit_block():
        if context.as_sql:
            yield
            return
        bind = op.get_bind()
        settings = {"lock_timeout": _LOCK_TIMEOUT, "statement_timeout": _STATEMENT_TIMEOUT}
        before = {name: bind.scalar(text(f"SHOW {name}")) for name in settings}
        for name, value in settings.items():
            bind.execute(text(f"SET {name} = '{value}'"))
        yield
        for name, value in before.items():  # a failed step ends with the connection's own settings, see migrate.py
            bind.execute(text(f"SET {name} = '{value}'"))


def create_index(name: str, on: str, *, unique: bool = False) -> None:
    """Builds an index while the table is read and written.

    Args:
        name: The index.
        on: What follows ON, such as `runs (created_at) WHERE ended_at IS NULL`.
        unique: Whether it is unique.
    """
    context = op.get_context()
    with outside_transaction():
        if not context.as_sql and op.get_bind().scalar(_IS_INVALID, {"name": name}):
            # an earlier try was interrupted: PostgreSQL keeps the half-built one, which nobody uses
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
        op.execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY IF NOT EXISTS {name} ON {on}")


def validate_constraint(table: str, name: str) -> None:
    """Checks the rows that were there before a constraint was added as NOT VALID, while they are read and written."""
    with outside_transaction():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
