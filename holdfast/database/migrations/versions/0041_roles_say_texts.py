"""Roles that were put as tables of rules say the same in the language of policies; no role is a table any more.

The table stays beside its text: it is what decided in records of that time, which audit bundles show and verifiers evaluate again.

Revision ID: 0041
Revises: 0040
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from alembic import op
from sqlalchemy import Connection, text

from holdfast.policies.starter import starter_policy
from holdfast.policies.tables import name_text, policy_text, texts_of
from holdfast_verdict import PolicyRefused, compile_policy
from holdfast_verdict.decide import Rule, rule_from_json

revision = "0041"
down_revision = "0040"

_TENANTS = text("SELECT tenant_id FROM list_tenants() ORDER BY tenant_id")
_AS_TENANT = text("SELECT set_config('holdfast.tenant_id', CAST(:tenant_id AS text), true)")
_ROLES = text(
    "SELECT name, version, rules::text AS rules, source FROM roles WHERE tenant_id = :tenant_id ORDER BY name, version"
)
_SAY = text("""
    UPDATE roles SET source = :source, policy_hash = :policy_hash WHERE tenant_id = :tenant_id AND name = :name AND version = :version
""")
# From here on a program of the version before that is asked to put a table fails, and stores nothing. Rows that there are need no
# later check: this transaction has seen them all.
_NO_TABLE_ALONE: Final = (
    "ALTER TABLE roles ADD CONSTRAINT roles_no_table_alone CHECK (source <> '' OR rules = '[]'::jsonb) NOT VALID"
)


def upgrade() -> None:
    """Translates every version of every role that is a table, and lets no further one in."""
    op.execute("ALTER TABLE roles ALTER COLUMN rules SET DEFAULT '[]'")
    op.execute(_NO_TABLE_ALONE)
    if not op.get_context().as_sql:
        _translate(op.get_bind())


def _translate(connection: Connection) -> None:
    for tenant_id in connection.scalars(_TENANTS).all():
        connection.execute(_AS_TENANT, {"tenant_id": str(tenant_id)})
        rows = connection.execute(_ROLES, {"tenant_id": tenant_id}).all()
        for (name, version), source in _sources(rows).items():
            _say(connection, tenant_id, name, version, source)


def _sources(rows: Any) -> Mapping[tuple[str, int], str]:  # Any: rows carry no types
    """Returns what each table says. The newest ones stand in one policy, so their rules have names that no two of them share."""
    newest = {row.name: row for row in rows}
    tables = {(row.name, row.version): _rules(row.rules) for row in rows if not row.source and row.rules != "[]"}
    taken = {rule.id for rule in starter_policy().rules}
    for row in newest.values():
        taken |= _ids(row.source)
    sources = {key: policy_text({key[0]: rules}) for key, rules in tables.items()}
    together = {name: tables[name, row.version] for name, row in newest.items() if (name, row.version) in tables}
    for name, source in texts_of(together, taken).items():
        sources[name, newest[name].version] = source
    return sources


def _rules(table: str) -> tuple[Rule, ...]:
    return tuple(map(rule_from_json, orjson.loads(table)))


def _ids(source: str) -> set[str]:
    try:
        return {rule.id for rule in compile_policy(source).rules} if source else set()
    except PolicyRefused:
        return set()  # it fitted tools that this does not know; a name that two rules have is found when a role is put


def _say(connection: Connection, tenant_id: UUID, name: str, version: int, source: str) -> None:
    try:
        policy_hash = compile_policy(source).policy_hash
    except PolicyRefused as refused:  # LAW 7: what cannot be said permits nothing
        why = "\n".join(f"# {line}" for problem in refused.problems for line in str(problem).splitlines())
        source = f"# Its table could not be said in this language, so it permits nothing:\n{why}\nrole {name_text(name)} {{\n}}\n"
        policy_hash = compile_policy(source).policy_hash
    values = {"tenant_id": tenant_id, "name": name, "version": version, "source": source, "policy_hash": policy_hash}
    connection.execute(_SAY, values)
