"""Alembic's entry: runs the migrations on the connection that `holdfast.database.migrate` hands over."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import text

from holdfast.database.migrate import COMMENT, version_of


def _say_version(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[object], run_args: Mapping[str, object]
) -> None:
    """Writes down, in the migration's own transaction, which version this is and who may work with it."""
    assert step.up_revision_id is not None  # there is no step without one
    script = context.script.get_revision(step.up_revision_id)
    assert script is not None
    assert ctx.connection is not None  # it is not called when migrations are only printed
    version = version_of(script, ctx.connection.scalar(COMMENT))
    ctx.connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{version.comment}'"))


connection = context.config.attributes["connection"]
if connection is None:  # only printed, for whoever wants to read what would be done
    context.configure(dialect_name="postgresql", transaction_per_migration=True)
else:
    context.configure(connection=connection, transaction_per_migration=True, on_version_apply=_say_version)
with context.begin_transaction():
    context.run_migrations()
