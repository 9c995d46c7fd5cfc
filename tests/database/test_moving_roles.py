"""Roles' tables become texts of the same meaning, in every version; no table comes in any more, and what decided then is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from holdfast.database.engine import transaction
from holdfast.policies import store
from holdfast.tenancy.bootstrap import move_roles
from holdfast_verdict import Facts, compile_policy, decide
from holdfast_verdict.decide import Condition, Rule, policy_hash, rule_from_json, rule_to_json
from holdfast_verdict.decide import Facts as TableFacts
from holdfast_verdict.decide import decide as table_decide
from tests.ledger.world import Database, Record, Tenant, new_tenant

from .schemas import empty_database, migrate_schema
from .test_moving_the_ledger import until_revision

THINK = Rule("think", "permit", "llm.call")
SMALL = Rule("small", "permit", "tool.call", "payments.refund", (Condition("args.amount_usd_cents", "<=", 500),))
ODD = Rule("odd", "permit", "tool.call", "mail.list", (Condition("args.no_such_argument", "==", 1),))
INSIDE = Rule(
    "inside",
    "forbid",
    "tool.call",
    "mail.send",
    (Condition("args.to", "any_outside_domains", ["acme.com"]),),
    "mail.out",
)
ASK = Rule("ask", "gate", "tool.call", "*", approver_role="finance", expires_s=90)
TABLES: dict[tuple[str, int], tuple[Rule, ...]] = {
    ("desk", 1): (THINK, SMALL),
    ("desk", 2): (THINK, SMALL, INSIDE, ASK),
    ("clerk", 1): (THINK, ODD),
    ("run", 1): (THINK, Rule("any", "permit", "tool.call", "*")),
    ("quiet", 1): (),
}
TEXT = 'role said {\n  permit llm.call as "think"\n}\n'
ACTIONS: list[dict[str, Any]] = [
    {"kind": "llm.call", "args": {"model": "m"}},
    {"kind": "tool.call", "tool": "payments.refund", "args": {"amount_usd_cents": 500}},
    {"kind": "tool.call", "tool": "payments.refund", "args": {"amount_usd_cents": 501}},
    {"kind": "tool.call", "tool": "mail.send", "args": {"to": ["a@acme.com"]}},
    {"kind": "tool.call", "tool": "mail.send", "args": {"to": ["a@evil.com"]}},
    {"kind": "tool.call", "tool": "mail.list", "args": {}},
    {"kind": "tool.call", "tool": "http.request", "args": {"method": "GET"}},
]


@pytest.fixture
async def old(database: Database) -> AsyncIterator[Database]:
    """A database of the schema before, with nothing in it."""
    async with empty_database(database) as empty:
        with until_revision("0040") as folder:
            await migrate_schema(empty, folder)
        yield empty


async def put(
    old: Database, tenant: Tenant, name: str, version: int, rules: tuple[Rule, ...], source: str = ""
) -> None:
    await old.execute(
        "INSERT INTO roles (tenant_id, name, version, rules, source, policy_hash) VALUES ($1, $2, $3, $4::text::jsonb, $5, $6)",
        tenant.tenant_id,
        name,
        version,
        json.dumps([rule_to_json(rule) for rule in rules]),
        source,
        policy_hash(rules),
    )


async def lived(old: Database) -> Tenant:
    tenant = await new_tenant(old)
    for (name, version), rules in TABLES.items():
        await put(old, tenant, name, version, rules)
    await put(old, tenant, "said", 1, (), TEXT)
    return tenant


async def rows_of(database: Database, tenant_id: UUID) -> dict[tuple[str, int], Record]:
    rows = await database.fetch("SELECT * FROM roles WHERE tenant_id = $1", tenant_id)
    return {(row["name"], row["version"]): row for row in rows}


async def test_every_version_of_every_role_says_what_its_table_said(old: Database) -> None:
    tenants = [await lived(old) for _ in range(2)]
    before = [await rows_of(old, tenant.tenant_id) for tenant in tenants]
    await migrate_schema(old)
    for tenant, were in zip(tenants, before, strict=True):
        rows = await rows_of(old, tenant.tenant_id)
        assert rows.keys() == were.keys()
        for key, rules in TABLES.items():
            row = rows[key]
            assert row["rules"] == were[key]["rules"], "what decided then can be shown"
            if not rules:
                assert row["source"] == ""
                continue
            policy = compile_policy(row["source"])
            assert row["policy_hash"] == policy.policy_hash
            principal = {"tenant": "acme", "project": "p", "user": "u", "agent": "a", "role": key[0]}
            for action in ACTIONS:
                told = table_decide(TableFacts(principal, rules, policy_hash(rules).hex(), known=True), action)
                said = decide(policy, action, Facts(principal=principal))
                assert (said.verdict, said.code) == (told.verdict, told.code), (key, action)
        assert rows["said", 1]["source"] == TEXT
        newest = [rows["desk", 2], rows["clerk", 1], rows["run", 1], rows["said", 1]]
        ids = [rule.id for row in newest for rule in compile_policy(row["source"]).rules]
        assert len(ids) == len(set(ids)), "they stand in one policy"
        assert {"think", "small", "inside", "ask", "odd", "desk.think"} <= set(ids)


async def test_what_they_say_becomes_the_tenants_policy_and_no_table_comes_in_any_more(old: Database) -> None:
    tenant = await lived(old)
    await migrate_schema(old)
    assert await move_roles(old.engine("api")) == [
        await old.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    ]
    async with transaction(old.engine("api"), tenant.tenant_id) as connection:
        active = await store.active(connection, tenant.tenant_id)
    assert active is not None
    assert {"desk", "clerk", "run", "quiet", "said"} <= set(active.policy.roles)
    assert compile_policy(active.source).policy_hash == active.about.policy_hash
    facts = Facts(principal={"tenant": "acme", "project": "p", "user": "u", "agent": "a", "role": "desk"})
    assert [decide(active.policy, action, facts).verdict for action in ACTIONS] == [
        "allow", "needs_approval", "deny", "deny", "deny", "deny", "deny",
    ]  # fmt: skip
    assert await move_roles(old.engine("api")) == []
    with pytest.raises(asyncpg.CheckViolationError, match="roles_no_table_alone"):
        await put(old, tenant, "late", 1, (THINK,))


async def test_a_table_that_cannot_be_said_permits_nothing_and_says_why(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await new_tenant(old)
    await put(old, tenant, "desk", 1, (THINK,))
    # nothing that could be stored is known not to compile, so the translation is broken on purpose
    monkeypatch.setattr("holdfast.policies.tables._statement", lambda rule, name: ["permit never happens"])
    await migrate_schema(old)
    (row,) = [row for key, row in (await rows_of(old, tenant.tenant_id)).items() if key[0] == "desk"]
    policy = compile_policy(row["source"])
    assert (policy.rules, list(policy.roles), policy.policy_hash) == ((), ["desk"], row["policy_hash"])
    assert "could not be said" in row["source"]


def test_a_stored_rule_is_read_as_it_was_put() -> None:
    for rules in TABLES.values():
        assert tuple(rule_from_json(rule_to_json(rule)) for rule in rules) == rules
