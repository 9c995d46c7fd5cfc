"""What roles say as one policy: of the same text whoever makes it, made anew with each change, gone once a person's policy decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import asyncpg
import pytest

from holdfast.database.engine import transaction
from holdfast.errors import Conflict, RequestInvalid
from holdfast.policies import starter, store
from holdfast.policies.accepting import PolicyCasesFailed, PolicyInvalid
from holdfast.policies.version import StoredPolicy
from holdfast.runs import versions
from holdfast.runs.definition import AgentDefinition, ModelRoute
from holdfast.tenancy.bootstrap import move_roles
from holdfast_verdict import Facts, compile_policy, decide
from tests.ledger.world import Tenant

THINK = "permit llm.call"
REFUND = "permit payments.refund where args.amount_usd_cents <= 5000 as refund"
ASK = 'gate ask: payments.refund needs 1 of role("finance")'


async def put_role(tenant: Tenant, name: str, *statements: str) -> None:
    source = f"role {name} {{\n" + "".join(f"  {each}\n" for each in statements) + "}\n" if statements else ""
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await versions.put_role(connection, tenant.tenant_id, name, source, actor="user:alice")


async def active(tenant: Tenant) -> StoredPolicy | None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await store.active(connection, tenant.tenant_id)


async def write(tenant: Tenant, source: str) -> None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        stored = await store.put(connection, tenant.tenant_id, source, compile_policy(source), put_by="user:alice")
        await store.activate(connection, tenant.tenant_id, stored.policy_id, by="user:alice")


async def test_the_policy_is_what_its_text_compiles_to(tenant: Tenant) -> None:
    await put_role(tenant, "desk", THINK, REFUND, ASK)
    await put_role(tenant, "reader", THINK, "permit mail.read as read")
    found = await active(tenant)
    assert found is not None
    assert (found.about.origin, found.about.put_by) == ("tables", "user:alice")
    assert compile_policy(found.source).policy_hash == found.about.policy_hash
    assert {rule.id for rule in found.policy.rules} == {"desk/llm.call-1", "refund", "ask", "reader/llm.call-1", "read"}
    assert set(found.policy.roles) == {"desk", "reader", "worker"}


async def test_a_change_of_a_role_decides_new_runs_and_no_old_ones(tenant: Tenant) -> None:
    await put_role(tenant, "worker", THINK)
    run = await tenant.run()
    await put_role(tenant, "worker", REFUND)
    later = await tenant.run()
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        rules = [
            [rule.id for rule in (await store.read_pinned(connection, tenant.tenant_id, each)).policy.rules]
            for each in (run, later)
        ]
    assert rules == [["worker/llm.call-1"], ["refund"]]


async def test_the_same_text_again_makes_no_new_version(tenant: Tenant) -> None:
    await put_role(tenant, "desk", THINK)
    before = await active(tenant)
    await put_role(tenant, "desk", THINK)
    assert await active(tenant) == before


async def test_roles_that_are_put_at_once_are_all_in_the_policy(tenant: Tenant) -> None:
    names = [f"role-{n}" for n in range(8)]
    await asyncio.gather(*(put_role(tenant, name, THINK) for name in names))
    found = await active(tenant)
    assert found is not None
    assert set(names) < set(found.policy.roles)
    assert len(found.policy.rules) == 8


async def test_a_persons_policy_takes_the_place_of_what_roles_say_and_says_so(tenant: Tenant) -> None:
    await put_role(tenant, "desk", THINK)
    await write(tenant, "role desk {\n  permit mail.read\n}\n")
    with pytest.raises(Conflict, match="policy decides"):
        await put_role(tenant, "desk", REFUND)
    await put_role(tenant, "other")  # a role without a text is a name alone
    found = await active(tenant)
    assert found is not None
    assert [rule.actions for rule in found.policy.rules] == [("mail.read",)]


async def test_a_run_from_before_there_were_policies_is_decided_by_its_own_version_of_the_role(tenant: Tenant) -> None:
    for version, source in ((2, f"role worker {{ {REFUND} }}\n"), (3, "")):
        await tenant.database.execute(
            "INSERT INTO roles (tenant_id, name, version, source, policy_hash) VALUES ($1, 'worker', $2, $3, sha256(''))",
            tenant.tenant_id,
            version,
            source,
        )
    run, empty = await tenant.run(), await tenant.run()
    await tenant.database.execute("UPDATE runs SET role_version = 2 WHERE run_id = $1", run)
    moved = await move_roles(tenant.database.engine("api"))
    assert len(moved) > 0
    assert await move_roles(tenant.database.engine("api")) == []
    async with transaction(tenant.database.engine("governor"), tenant.tenant_id) as connection:
        old = await store.read_pinned(connection, tenant.tenant_id, run)
        none = await store.read_pinned(connection, tenant.tenant_id, empty)
        new = await store.read_pinned(connection, tenant.tenant_id, await tenant.run())
    assert (old.version, [rule.id for rule in old.policy.rules]) == (0, ["refund"])
    assert old.policy == compile_policy(old.source)
    assert (none.version, none.policy.rules) == (0, ())
    assert (new.version, new.policy.rules) == (1, ()), "the newest version permits nothing"


# The starter policy ------------------------------------------------------------------------------------------------------


def _decided(source: str, action: str, args: Mapping[str, object], role: str = "assistant") -> tuple[str, str]:
    from holdfast.policies.catalogue import catalogue_of

    verdict = decide(
        compile_policy(source, catalogue_of()), catalogue_of().action(action, args), Facts(principal={"role": role})
    )
    return verdict.verdict, verdict.rule_id


def test_the_starter_lets_an_assistant_work_inside_and_asks_before_anything_leaves() -> None:
    text = starter.starter_text()
    assert _decided(text, "llm.call", {"model": "gpt-4o-mini"}) == ("allow", "assistant-thinks")
    assert _decided(text, "mail.list", {}) == ("allow", "assistant-uses-tools")
    mail = {"to": ["bob@acme.com"], "subject": "hello", "body": "hello"}
    assert _decided(text, "mail.send", mail) == ("needs_approval", "assistant-goes-outside")
    refund = {"order_id": "A-1", "amount_usd_cents": 1, "reason": "x"}
    assert _decided(text, "payments.refund", refund)[0] == "needs_approval"
    assert _decided(text, "http.request", {"method": "GET", "url": "https://a.example/"})[0] == "needs_approval"
    assert _decided(text, "mail.list", {}, "stranger")[0] == "deny"


async def test_a_new_tenant_has_the_starter_and_an_agent_of_its_role_may_be_put_at_once(tenant: Tenant) -> None:
    await tenant.database.execute("DELETE FROM roles WHERE tenant_id = $1", tenant.tenant_id)
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await starter.give(connection, tenant.tenant_id, by="bootstrap")
        definition = AgentDefinition(role="assistant", model=ModelRoute(wire="openai", name="gpt-4o-mini"))
        await versions.put_agent(connection, tenant.tenant_id, "helper", definition)
    found = await active(tenant)
    assert found is not None
    assert (found.about.version, found.about.origin) == (1, "starter"), "the role's row made no new version"


async def test_the_starter_stays_beside_other_roles_until_its_own_says_something(tenant: Tenant) -> None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await starter.give(connection, tenant.tenant_id, by="bootstrap")
    await put_role(tenant, "desk", THINK)
    await put_role(tenant, "reader", REFUND)
    found = await active(tenant)
    assert found is not None
    assert {"assistant", "desk", "reader"} <= set(found.policy.roles)
    assert compile_policy(found.source).policy_hash == found.about.policy_hash
    await put_role(tenant, starter.STARTER_ROLE, THINK)
    found = await active(tenant)
    assert found is not None
    assert not starter.begins_with_starter(found.source)
    assert [rule.id for rule in found.policy.rules if rule.role == "assistant"] == ["assistant/llm.call-1"]


# Roles that say it in the language ------------------------------------------------------------------------------------------


async def say(tenant: Tenant, name: str, source: str, cases: str = "") -> versions.RoleVersion:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        return await versions.put_role(connection, tenant.tenant_id, name, source, cases=cases, actor="user:alice")


DESK = """role desk {
  permit llm.call
  permit payments.refund where args.amount_usd_cents <= 5000 as refund
  limit payments.refund count <= 3 per run
  gate ask: payments.refund where args.amount_usd_cents > 100 needs 1 of role("finance")
}
"""


async def test_texts_and_the_starter_stand_in_one_policy(tenant: Tenant) -> None:
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        await starter.give(connection, tenant.tenant_id, by="bootstrap")
    await put_role(tenant, "reader", THINK, "permit tools as everything")
    await say(tenant, "desk", DESK)
    await say(tenant, "clerk", "role clerk {\n  forbid mail.send after mail.read within 1h\n  permit mail.*\n}\n")
    found = await active(tenant)
    assert found is not None
    assert found.about.origin == "tables"
    assert compile_policy(found.source).policy_hash == found.about.policy_hash
    assert {"assistant", "desk", "reader", "clerk"} <= set(found.policy.roles)
    assert {"refund", "ask", "desk/llm.call-1", "reader/llm.call-1", "everything"} <= {
        rule.id for rule in found.policy.rules
    }
    assert len(found.policy.watches) == 1, "what a text remembers is remembered"
    assert DESK in found.source


async def test_a_role_that_says_nothing_any_more_may_do_nothing(tenant: Tenant) -> None:
    said = await say(tenant, "desk", DESK)
    assert (said.version, said.source) == (1, DESK)
    await put_role(tenant, "desk")
    found = await active(tenant)
    assert found is not None
    assert [rule for rule in found.policy.rules if rule.role == "desk"] == []
    assert "desk" in found.policy.roles


async def translated(tenant: Tenant, name: str, source: str, version: int = 1) -> None:
    """Stores a role as migration 0041 leaves one that was a table."""
    table = json.dumps([{"rule_id": "of old"}])
    await tenant.database.execute(
        """INSERT INTO roles (tenant_id, name, version, rules, source, policy_hash)
           VALUES ($1, $2, $3, $4::text::jsonb, $5, sha256(''))""",
        tenant.tenant_id,
        name,
        version,
        table,
        source,
    )


async def test_what_a_table_was_translated_to_may_name_arguments_that_no_tool_has(tenant: Tenant) -> None:
    odd = 'role old {\n  permit mail.list where args.none == 1 as "odd"\n  permit llm.call as "think"\n}\n'
    await translated(tenant, "old", odd)
    await say(tenant, "desk", DESK)
    found = await active(tenant)
    assert found is not None
    assert {"odd", "think", "refund"} <= {rule.id for rule in found.policy.rules}
    assert odd in found.source
    with pytest.raises(RequestInvalid, match="both have a rule that is called 'think'"):
        await say(tenant, "reader", "role reader {\n  permit llm.call as think\n}\n")
    assert await active(tenant) == found
    with pytest.raises(PolicyInvalid, match="no argument"):  # from somebody's own hand it is held against the tools
        await say(tenant, "old", odd)
    await say(tenant, "old", odd.replace('  permit mail.list where args.none == 1 as "odd"\n', ""))
    found = await active(tenant)
    assert found is not None
    assert "odd" not in {rule.id for rule in found.policy.rules}


async def test_no_table_can_be_stored_without_its_text(tenant: Tenant) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="roles_no_table_alone"):
        await translated(tenant, "old", "")


async def test_a_text_that_cannot_be_used_changes_nothing(tenant: Tenant) -> None:
    await say(tenant, "desk", DESK)
    before = await active(tenant)
    case = '[[case]]\nname = "none"\nrole = "desk"\naction = "mail.list"\nexpect = "allow"\n'
    for source, cases, error, match in (
        ("role desk {\n  permit no.such\n}\n", "", PolicyInvalid, "role desk:2:10"),
        ("role other {\n  permit llm.call\n}\n", "", RequestInvalid, "nothing else"),
        (DESK + "forbid external\n", "", RequestInvalid, "nothing else"),
        (DESK, case, PolicyCasesFailed, "1 of 1 cases failed"),
    ):
        with pytest.raises(error, match=match):
            await say(tenant, "desk", source, cases)
    with pytest.raises(PolicyInvalid, match="refund"):  # a name that another role's rule has
        await say(tenant, "other", "role other {\n  permit payments.refund as refund\n}\n")
    assert await active(tenant) == before


async def test_a_policy_that_was_made_in_an_older_way_is_made_anew_at_the_start(tenant: Tenant) -> None:
    await put_role(tenant, "desk", THINK, "permit http.request as ask")
    older = "# Made of the roles' tables\nrole desk {\n  permit llm.call as think\n}\nrole worker {}\n"
    async with transaction(tenant.database.engine("api"), tenant.tenant_id) as connection:
        stored = await store.put(
            connection, tenant.tenant_id, older, compile_policy(older), put_by="bootstrap", origin="tables"
        )
        await store.activate(connection, tenant.tenant_id, stored.policy_id, by="bootstrap")
    slug = await tenant.database.value("SELECT slug FROM tenants WHERE tenant_id = $1", tenant.tenant_id)
    assert slug in await move_roles(tenant.database.engine("api"))
    found = await active(tenant)
    assert found is not None
    assert "permit http.request" in found.source
    assert await move_roles(tenant.database.engine("api")) == []
