"""The policy that means what the tables of a tenant's roles mean: one text of all of them, made anew whenever one changes.

As soon as somebody has written a policy and made it active, it decides, and tables are not taken any more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import lru_cache
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import Conflict
from holdfast.policies import store
from holdfast.policies.starter import STARTER_ROLE, begins_with_starter, starter_policy, starter_text
from holdfast.policies.tables import policy_text
from holdfast_verdict import Policy, compile_policy
from holdfast_verdict.decide import Rule, rule_from_json

HEAD: Final = "# Made of the roles' tables; push a policy of your own to take its place.\n"

_NAME_LENGTH_MAX: Final = 100
_MARK_LENGTH: Final = 16

_TABLES = text("""
    SELECT DISTINCT ON (name) name, rules FROM roles WHERE tenant_id = :tenant_id ORDER BY name, version DESC
""")


_HAS_TABLES = text("SELECT 1 FROM roles WHERE tenant_id = :tenant_id LIMIT 1")


@lru_cache(maxsize=1_024)
def compiled_table(source: str) -> Policy:
    """Compiles the text of one table. Tables may name arguments that no tool has, so it is not held against the tenant's tools."""
    return compile_policy(source)


def texts_of(tables: Mapping[str, Sequence[Rule]]) -> list[str]:
    """Returns the text of each role, by name. Decisions cite a rule by its id, so an id that two roles have is told apart."""
    often = Counter(rule.rule_id for rules in tables.values() for rule in rules)
    taken = {rule_id for rule_id, count in often.items() if count == 1}
    texts = []
    for role in sorted(tables):
        named = []
        for rule in tables[role]:
            rule_id = rule.rule_id if often[rule.rule_id] == 1 else _told_apart(role, rule.rule_id, taken)
            taken.add(rule_id)
            named.append(replace(rule, rule_id=rule_id))
        texts.append(policy_text({role: named}))
    return texts


def _told_apart(role: str, rule_id: str, taken: AbstractSet[str]) -> str:
    name = f"{role}.{rule_id}"
    if len(name) <= _NAME_LENGTH_MAX and name not in taken:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:_MARK_LENGTH]
    return f"{mark}.{rule_id}"[:_NAME_LENGTH_MAX]


def joined(policies: Sequence[Policy]) -> Policy:
    """Returns the policy of several texts that stand one after the other, of which none remembers anything."""
    return Policy(
        roles={name: parents for policy in policies for name, parents in policy.roles.items()},
        rules=tuple(rule for policy in policies for rule in policy.rules),
        external={name: is_external for policy in policies for name, is_external in policy.external.items()},
    )


async def follow(connection: AsyncConnection, tenant_id: UUID, *, by: str) -> None:
    """Lets the tenant's policy mean what its roles' tables mean now, unless a person has written the one that is active.

    A starter policy stays as long as no table speaks of its role.
    """
    await store.lock(connection, tenant_id)
    active = await store.active(connection, tenant_id)
    if active is not None and active.about.origin == "written":
        return
    rows = await connection.execute(_TABLES, {"tenant_id": tenant_id})
    tables = {row.name: tuple(map(rule_from_json, row.rules)) for row in rows}
    keeps_starter = active is not None and begins_with_starter(active.source) and not tables.get(STARTER_ROLE)
    if keeps_starter:
        tables.pop(STARTER_ROLE, None)
    texts = texts_of(tables)
    policies = await asyncio.to_thread(lambda: [compiled_table(each) for each in texts])
    source = "\n".join([*([starter_text()] if keeps_starter else [HEAD]), *texts])
    policy = joined([*([starter_policy()] if keeps_starter else []), *policies])
    if active is not None and active.source == source:
        return
    stored = await store.put(
        connection, tenant_id, source, policy, put_by=by, note="made of the roles' tables", origin="tables"
    )
    await store.activate(connection, tenant_id, stored.policy_id, by=by, reason="a role's table changed")


async def move(connection: AsyncConnection, tenant_id: UUID, *, by: str) -> bool:
    """Makes the policy of a tenant that has tables and no policy yet, and says whether it did."""
    await store.lock(connection, tenant_id)
    has_tables = await connection.scalar(_HAS_TABLES, {"tenant_id": tenant_id})
    if not has_tables or await store.active(connection, tenant_id) is not None:
        return False
    await follow(connection, tenant_id, by=by)
    return True


async def require_tables_decide(connection: AsyncConnection, tenant_id: UUID, role: str) -> None:
    """Makes sure that a table would decide anything.

    Raises:
        Conflict: A policy that a person wrote is active.
    """
    active = await store.active(connection, tenant_id)
    if active is not None and active.about.origin == "written":
        raise Conflict(
            f"version {active.about.version} of the tenant's policy decides, and not the table of the role {role}",
            remedy="say it in the policy and push that, or put the role without rules",
        )
