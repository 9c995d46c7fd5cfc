"""The policy that means what a tenant's roles say: one text of all of them, made anew whenever one changes.

A role says in the language of policies what it may do. As soon as somebody has written a policy of all roles and made it active, it
decides, and roles say nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import Conflict, RequestInvalid
from holdfast.policies import store
from holdfast.policies.catalogue import read_catalogue
from holdfast.policies.starter import STARTER_ROLE, begins_with_starter, starter_policy, starter_text
from holdfast.policies.tables import name_text
from holdfast_verdict import Catalogue, Policy, compile_policy
from holdfast_verdict.language.parser import parse_text
from holdfast_verdict.language.source import read_text
from holdfast_verdict.language.syntax import Role

MADE: Final = "# Made of what the roles say, by translation 2; push a policy of your own to take its place.\n"
"""Stands in each such text. Its number grows when the text comes to be made otherwise: then it is made anew."""

_ROLES = text("""
    SELECT DISTINCT ON (name) name, source, rules <> '[]'::jsonb AS was_table FROM roles
    WHERE tenant_id = :tenant_id ORDER BY name, version DESC
""")
_HAS_ROLES = text("SELECT 1 FROM roles WHERE tenant_id = :tenant_id LIMIT 1")


@dataclass(frozen=True, slots=True)
class _Said:
    """What all roles of a tenant say, by the role's name.

    Attributes:
        texts: As somebody has written it, held against the tenant's tools.
        others: Of roles that say nothing, and of those whose table was translated: tables could name arguments that no tool has.
    """

    texts: Mapping[str, str]
    others: Mapping[str, str]

    def without(self, role: str) -> _Said:
        """Returns the same without a role that says nothing."""
        return _Said(self.texts, {name: source for name, source in self.others.items() if name != role})


@lru_cache(maxsize=1_024)
def _compiled_alone(source: str) -> Policy:
    """Compiles the text of one role, which is not held against the tenant's tools."""
    return compile_policy(source)


def accepted(name: str, source: str, cases: str, catalogue: Catalogue) -> Policy:
    """Compiles what a role says and plays its cases.

    Raises:
        PolicyInvalid: It is not well-formed or not well-typed, or a case failed.
        RequestInvalid: It says more than what this role may do, or the cases have not the documented form.
    """
    from holdfast.policies import accepting  # brings a solver along, which only whoever takes texts needs

    file = f"role {name}"
    policy = accepting.compiled(source, catalogue, file)
    items = parse_text(read_text(source, file)).items
    if len(items) != 1 or not isinstance(items[0], Role) or items[0].name.text != name:
        raise RequestInvalid(
            f"policy: the text of a role is `role {name} {{ … }}` and nothing else",
            remedy="what holds for all roles is said in a policy of the whole tenant: POST /v1/policies",
        )
    accepting.require_passed(accepting.played(policy, cases, catalogue) if cases else [])
    return policy


def joined(first: Policy, others: Sequence[Policy]) -> Policy:
    """Returns the policy of several texts that stand one after the other, of which only the first may remember anything.

    Raises:
        RequestInvalid: Two rules have one name.
    """
    policies = [first, *others]
    roles_by_rule: dict[str, str] = {}
    for rule in (rule for policy in policies for rule in policy.rules):
        earlier = roles_by_rule.setdefault(rule.id, rule.role)
        if earlier != rule.role:
            raise RequestInvalid(
                f"policy: the roles {earlier} and {rule.role} both have a rule that is called {rule.id!r}",
                remedy="decisions cite a rule by its name: call one of them otherwise, with `as`",
            )
    return replace(
        first,
        roles={name: parents for policy in policies for name, parents in policy.roles.items()},
        rules=tuple(rule for policy in policies for rule in policy.rules),
    )


def _composed(said: _Said, catalogue: Catalogue | None, *, keeps_starter: bool) -> tuple[str, Policy]:
    """Returns the text of all roles, and what it compiles to.

    Raises:
        PolicyInvalid: Texts do not fit together, or no longer fit the tools.
    """
    heads = [starter_text(), MADE] if keeps_starter else [MADE]
    written = [*heads, *(said.texts[name] for name in sorted(said.texts))]
    first = starter_policy() if keeps_starter else Policy(roles={}, rules=())
    if said.texts:
        from holdfast.policies import accepting  # as above

        first = accepting.compiled("\n".join(written), catalogue or Catalogue.of({}), "roles")
    others = [said.others[name] for name in sorted(said.others)]
    return "\n".join([*written, *others]), joined(first, [_compiled_alone(each) for each in others])


async def follow(connection: AsyncConnection, tenant_id: UUID, *, by: str) -> None:
    """Lets the tenant's policy mean what its roles say now, unless a person has written the one that is active.

    A starter policy stays as long as no role says what its role may do.

    Raises:
        PolicyInvalid: Texts do not fit together, or no longer fit the tools.
        RequestInvalid: Rules of two roles have one name.
    """
    await store.lock(connection, tenant_id)
    active = await store.active(connection, tenant_id)
    if active is not None and active.about.origin == "written":
        return
    rows = (await connection.execute(_ROLES, {"tenant_id": tenant_id})).all()
    said = _Said(
        {row.name: row.source for row in rows if row.source and not row.was_table},
        {
            row.name: row.source or f"role {name_text(row.name)} {{\n}}\n"
            for row in rows
            if row.was_table or not row.source
        },
    )
    says_its_own = any(row.source for row in rows if row.name == STARTER_ROLE)
    keeps_starter = active is not None and begins_with_starter(active.source) and not says_its_own
    if keeps_starter:
        said = said.without(STARTER_ROLE)
        if not said.texts and not said.others:
            return
    catalogue = await read_catalogue(connection, tenant_id) if said.texts else None
    source, policy = await asyncio.to_thread(_composed, said, catalogue, keeps_starter=keeps_starter)
    if active is not None and active.source == source:
        return
    stored = await store.put(
        connection, tenant_id, source, policy, put_by=by, note="made of what the roles say", origin="tables"
    )
    await store.activate(connection, tenant_id, stored.policy_id, by=by, reason="what a role says changed")


async def move(connection: AsyncConnection, tenant_id: UUID, *, by: str) -> bool:
    """Makes the policy of a tenant that has roles and none yet, or one that was made of them in an older way; says whether it did."""
    await store.lock(connection, tenant_id)
    has_roles = await connection.scalar(_HAS_ROLES, {"tenant_id": tenant_id})
    active = await store.active(connection, tenant_id)
    older = active is not None and active.about.origin == "tables" and MADE not in active.source
    if not has_roles or not (active is None or older):
        return False
    await follow(connection, tenant_id, by=by)
    return True


async def require_roles_decide(connection: AsyncConnection, tenant_id: UUID, role: str) -> None:
    """Makes sure that what a role says would decide anything.

    Raises:
        Conflict: A policy that a person wrote is active.
    """
    active = await store.active(connection, tenant_id)
    if active is not None and active.about.origin == "written":
        raise Conflict(
            f"version {active.about.version} of the tenant's policy decides, and not what the role {role} says",
            remedy="say it in the policy and push that, or put the role without a text",
        )
