"""Approvals as PostgreSQL decides them: n of m, each voter once, one decision whatever comes at once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from holdfast.approvals.seats import Consenting, gate_from_json, seat
from holdfast.ids import new_id
from holdfast.ledger.executions import Executions
from holdfast.ledger.types import ApprovalRequest
from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.decide import Verdict
from holdfast_verdict.engine.facts import Consent
from holdfast_verdict.engine.gates import _waiting
from holdfast_verdict.policy import Escalation, Gate, Need
from holdfast_verdict.record import record_hash
from tests.ledger.world import ALLOWED, Database, Tenant, new_tenant, until

_VOTE = """SELECT status, state, revision
    FROM vote_on_approval($1, $2, $3, $4, $5, $6, $7, $8::text[], 'api', $9, '', NULL, $10, $11, $12, false)"""
_FAULTS = (
    "verdict = 'approved'",
    "edited_action = 'x'",
    "binding = sha256('x')",
    "revision = 7",
    "verdict = NULL, decided_at = NULL",
)


class Asked:
    """An approval that a run waits for."""

    def __init__(self, tenant: Tenant, run_id: UUID, approval_id: UUID, binding: bytes) -> None:
        self.tenant, self.run_id, self.approval_id, self.binding = tenant, run_id, approval_id, binding

    async def vote(
        self,
        user: UUID,
        verdict: str = "approved",
        *,
        roles: Sequence[str] = ("x",),
        seen: bytes | None = None,
        edited: bytes | None = None,
        binding: bytes | None = None,
        kind: str = "user",
        name: str = "somebody",
    ) -> str:
        async with self.tenant.database.engine("api").connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert isinstance(raw, asyncpg.Connection)
            async with raw.transaction():
                await raw.execute("SELECT set_config('holdfast.tenant_id', $1, true)", str(self.tenant.tenant_id))
                arguments = (kind, str(user) if kind == "user" else name, name, user if kind == "user" else None)
                row = await raw.fetchrow(
                    _VOTE,
                    self.tenant.tenant_id,
                    self.approval_id,
                    seen,
                    *arguments,
                    list(roles),
                    verdict,
                    edited is not None,
                    edited,
                    binding,
                )
        status: str = row["status"]
        return status

    async def row(self) -> Any:
        (row,) = await self.tenant.database.fetch("SELECT * FROM approvals WHERE approval_id = $1", self.approval_id)
        return row

    async def events(self, kind: str) -> int:
        found: int = await self.tenant.database.value(
            "SELECT count(*) FROM timeline_events WHERE run_id = $1 AND type = $2", self.run_id, kind
        )
        return found


def role(name: str, count: int = 1) -> Need:
    return Need(count, "role", name)


async def ask(tenant: Tenant, *needs: Need, escalate: Escalation | None = None, not_requester: bool = True) -> Asked:
    run_id = await tenant.run()
    gate = Gate(needs, 3_600_000, not_requester, escalate)
    request = ApprovalRequest(
        new_id(), new_id().bytes * 2, "gate", gate, tenant.user_id, datetime.now(UTC) + timedelta(hours=1)
    )
    await tenant.reserve(run_id, 1, evaluated=Verdict("needs_approval", "approval.required", "x"), approval=request)
    return Asked(tenant, run_id, request.approval_id, request.binding)


@pytest.fixture
async def funded(tenant: Tenant) -> Tenant:
    await tenant.cap("tenant", 1_000_000)
    return tenant


async def test_a_hundred_consents_at_once_approve_once(funded: Tenant) -> None:
    asked = await ask(funded, role("x", 3))
    statuses = await asyncio.gather(*(asked.vote(new_id()) for _ in range(100)))
    assert statuses.count("cast") == 3
    assert statuses.count("same") == 97, "it was approved before they came, as they wanted"
    assert await asked.events("approval.decided") == 1
    assert await asked.events("approval.voted") == 2
    votes = "SELECT array_agg(number ORDER BY number) FROM approval_votes WHERE approval_id = $1"
    assert await funded.database.value(votes, asked.approval_id) == [1, 2, 3]


async def test_one_approval_releases_one_action(funded: Tenant) -> None:
    asked = await ask(funded, role("x"))
    assert await asked.vote(new_id()) == "cast"
    decisions = await asyncio.gather(
        *(
            funded.reserve(asked.run_id, step, try_number=number, evaluated=ALLOWED, consumes=asked.approval_id)
            for step, number in itertools.product((1, 2), range(2, 12))
        ),
        return_exceptions=True,
    )
    allowed = [each for each in decisions if not isinstance(each, BaseException) and each.verdict == "allow"]
    assert len(allowed) == 1, "and none for another step"


async def test_what_nobody_approved_releases_nothing(funded: Tenant) -> None:
    for verdict in (None, "denied"):
        asked = await ask(funded, role("x"))
        if verdict is not None:
            await asked.vote(new_id(), verdict)
        decision = await funded.reserve(asked.run_id, 1, try_number=2, evaluated=ALLOWED, consumes=asked.approval_id)
        assert (decision.verdict, decision.code) == ("deny", "approval.consumed")


async def test_approving_and_denying_at_once_is_one_of_them(funded: Tenant) -> None:
    for _ in range(10):
        asked = await ask(funded, role("x", 2))
        users = [new_id() for _ in range(20)]
        statuses = await asyncio.gather(
            *(asked.vote(user, ("approved", "denied")[n % 2]) for n, user in enumerate(users))
        )
        state = (await asked.row())["verdict"]
        assert state in ("approved", "denied")
        assert await asked.events("approval.decided") == 1
        assert set(statuses) <= {"cast", "same", "decided"}
        denied = "SELECT count(*) FROM approval_votes WHERE approval_id = $1 AND verdict = 'denied'"
        assert await funded.database.value(denied, asked.approval_id) == (1 if state == "denied" else 0)


async def test_nothing_is_approved_after_it_has_expired(funded: Tenant) -> None:
    """Votes wait while the approval's time runs out: what PostgreSQL's clock says under the lock is what counts."""
    asked = await ask(funded, role("x", 1_000))
    assert await asked.vote(new_id()) == "cast"
    waiting = """SELECT count(*) = 4 FROM pg_stat_activity
        WHERE application_name = 'holdfast-test-api' AND wait_event_type = 'Lock'"""
    async with funded.database.superuser.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM runs WHERE run_id = $1 FOR UPDATE", asked.run_id)
        voting = [asyncio.create_task(asked.vote(new_id())) for _ in range(4)]
        await until(lambda: funded.database.value(waiting))
        await connection.execute(
            "UPDATE approvals SET expires_at = clock_timestamp() WHERE approval_id = $1", asked.approval_id
        )
    assert set(await asyncio.gather(*voting)) == {"expired"}, "although they began before"
    assert await asked.vote(new_id()) == "expired"
    votes = "SELECT count(*) FROM approval_votes WHERE approval_id = $1"
    assert await funded.database.value(votes, asked.approval_id) == 1
    assert (await asked.row())["verdict"] is None


async def test_one_person_counts_once_also_with_two_roles(funded: Tenant) -> None:
    asked = await ask(funded, role("x"), role("y"))
    anna, bob = new_id(), new_id()
    assert await asked.vote(anna, roles=("x", "y")) == "cast"
    assert await asked.vote(anna, roles=("x", "y")) == "same"
    assert await asked.vote(anna, roles=("y",)) == "same"
    assert (await asked.row())["verdict"] is None
    assert await asked.vote(bob, roles=("x",)) == "cast", "and anna moves to the other seat"
    assert (await asked.row())["verdict"] == "approved"


async def test_the_requester_never_consents(funded: Tenant) -> None:
    asked = await ask(funded, role("x"))
    assert await asked.vote(funded.user_id) == "requester"
    allowed = await ask(funded, role("x"), not_requester=False)
    assert await allowed.vote(funded.user_id) == "cast"


async def test_a_signer_is_no_person_and_a_person_no_signer(funded: Tenant) -> None:
    asked = await ask(funded, Need(1, "signer", "x"))
    assert await asked.vote(new_id(), roles=("x",), name="x") == "not_eligible"
    assert await asked.vote(new_id(), kind="signer", name="y", roles=("x",)) == "not_eligible"
    assert await asked.vote(new_id(), kind="signer", name="x", roles=()) == "cast"
    assert (await asked.row())["verdict"] == "approved"


async def test_an_edit_makes_earlier_votes_worth_nothing(funded: Tenant) -> None:
    asked = await ask(funded, role("x", 2))
    anna, bob, carl, other = new_id(), new_id(), new_id(), bytes(range(32))
    assert await asked.vote(anna) == "cast"
    assert await asked.vote(bob, edited=b'{"args":{}}', binding=other) == "cast"
    assert await asked.vote(bob, edited=b'{"args":{}}', binding=other) == "same"
    row = await asked.row()
    assert (row["verdict"], row["revision"], row["binding"]) == (None, 1, other)
    assert await asked.vote(carl) == "changed", "who does not say what was seen may have seen the old arguments"
    assert await asked.vote(carl, seen=asked.binding) == "changed"
    assert (await asked.row())["verdict"] is None
    assert await asked.vote(carl, seen=other) == "cast"
    row = await asked.row()
    assert (row["verdict"], row["edited_action"]) == ("approved", b'{"args":{}}')


async def test_an_edit_and_the_last_vote_at_once_never_mix(funded: Tenant) -> None:
    """Either the vote came first, and what was proposed is approved, or the edit did, and the vote does not count."""
    for _ in range(15):
        asked = await ask(funded, role("x", 2))
        await asked.vote(new_id())
        other = new_id().bytes * 2
        edit, vote = await asyncio.gather(
            asked.vote(new_id(), edited=b'{"args":{}}', binding=other), asked.vote(new_id())
        )
        row = await asked.row()
        if vote == "cast":
            assert (edit, row["verdict"], row["edited_action"], row["binding"]) == (
                "decided",
                "approved",
                None,
                asked.binding,
            )
        else:
            assert (vote, edit, row["verdict"], row["binding"]) == ("changed", "cast", None, other)


async def test_not_even_a_faulty_program_approves_without_the_consents_or_decides_twice(funded: Tenant) -> None:
    asked = await ask(funded, role("x", 2))
    await asked.vote(new_id())
    approve = "UPDATE approvals SET verdict = 'approved', decided_at = now() WHERE approval_id = $1"
    with pytest.raises(asyncpg.CheckViolationError):
        await funded.database.execute(approve, asked.approval_id)
    await asked.vote(new_id(), "denied")
    for change in _FAULTS:
        with pytest.raises(asyncpg.CheckViolationError):
            await funded.database.execute(f"UPDATE approvals SET {change} WHERE approval_id = $1", asked.approval_id)


async def test_votes_are_only_appended_to(funded: Tenant) -> None:
    await ask(funded, role("x"))
    for process in ("api", "governor", "sweeper", "executor", "broker", "auditor", "definer"):
        for table in ("approval_votes", "approval_delegations"):
            for right in ("UPDATE", "DELETE", *(() if process == "definer" else ("INSERT",))):
                may = await funded.database.value(
                    "SELECT has_table_privilege($1, $2, $3)", f"holdfast_{process}", table, right
                )
                assert not may, (process, table, right)


async def escalate(asked: Asked) -> str:
    """Does what the sweeper does."""
    connection = await asked.tenant.database.connect("sweeper")
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('holdfast.tenant_id', $1, true)", str(asked.tenant.tenant_id))
            row = await connection.fetchrow(
                "SELECT status FROM escalate_approval($1, $2)", asked.tenant.tenant_id, asked.approval_id
            )
            status: str = row["status"]
            return status
    finally:
        await connection.close()


async def past(asked: Asked) -> None:
    """Lets the approval have been asked for two hours ago."""
    await asked.tenant.database.execute(
        "UPDATE approvals SET created_at = created_at - interval '2 hours' WHERE approval_id = $1", asked.approval_id
    )


async def test_whom_it_escalates_to_stands_in_only_then(funded: Tenant) -> None:
    asked = await ask(funded, role("x"), escalate=Escalation(3_600_000, role("chief")))
    assert await asked.vote(new_id(), roles=("chief",)) == "not_eligible"
    assert await escalate(asked) == "not_due"
    await past(asked)
    due = "SELECT approval_id FROM due_escalations(100)"
    connection = await funded.database.connect("sweeper")
    assert asked.approval_id in [row["approval_id"] for row in await connection.fetch(due)]
    assert sorted(await asyncio.gather(*(escalate(asked) for _ in range(4)))) == ["escalated", *["not_due"] * 3]
    assert asked.approval_id not in [row["approval_id"] for row in await connection.fetch(due)]
    await connection.close()
    assert await asked.events("approval.escalated") == 1
    assert await asked.vote(new_id(), roles=("chief",)) == "cast"
    assert (await asked.row())["verdict"] == "approved"


async def test_consents_that_were_there_may_be_enough_once_it_escalates(funded: Tenant) -> None:
    asked = await ask(funded, role("x"), role("z"), escalate=Escalation(3_600_000, role("chief")))
    assert await asked.vote(new_id(), roles=("x",)) == "cast"
    assert await asked.vote(new_id(), roles=("x", "chief")) == "cast"
    assert (await asked.row())["verdict"] is None
    await past(asked)
    assert await escalate(asked) == "approved"
    row = await asked.row()
    assert (row["verdict"], row["signalled_at"]) == ("approved", None), "the outbox wakes the run"


async def test_postgresql_python_and_the_engine_seat_alike(database: Database) -> None:
    """Three ways to say whether a gate is met: sets of needs, augmenting paths, and the engine's own."""
    chance = random.Random(7)
    names = ("x", "y", "z")
    for _ in range(400):
        needs = tuple(
            Need(chance.randint(1, 2), chance.choice(("role", "role", "agent", "signer")), chance.choice(names))
            for _ in range(chance.randint(1, 4))
        )
        later = Escalation(1, Need(chance.randint(1, 2), "role", "chief")) if chance.random() < 0.5 else None
        gate, escalated = Gate(needs, 1, True, later), chance.random() < 0.5
        voters = [
            Consenting(
                kind := chance.choice(("user", "user", "agent", "signer")),
                chance.choice(names) if kind != "user" else f"user-{n}",
                tuple(r for r in (*names, "chief") if chance.random() < 0.4) if kind == "user" else (),
            )
            for n in range(chance.randint(0, 6))
        ]
        voters = list({(voter.kind, voter.name): voter for voter in voters}.values())
        shown = [{"kind": v.kind, "name": v.name, "roles": list(v.roles)} for v in voters]
        met = await database.value(
            "SELECT gate_met($1, $2, $3)",
            orjson.dumps(gate.to_json()).decode(),
            escalated,
            orjson.dumps(shown).decode(),
        )
        assert gate_from_json(orjson.loads(orjson.dumps(gate.to_json()))) == gate
        seats = seat(gate, voters, escalated=escalated)
        consents = tuple(Consent(v.name, v.kind, v.roles, 0) for v in voters)
        stand_in = later.to if escalated and later is not None else None
        engine = not _waiting(needs, stand_in, consents)
        assert met == all(not each.missing for each in seats) == engine, (gate, voters, escalated)


@pytest.mark.parametrize(
    "gate",
    [
        {"needs": []},
        {},
        {"needs": [{"count": 0, "kind": "role", "name": "x"}]},
        {"needs": [{"kind": "role", "name": "x"}]},
        {"needs": [{"count": 1, "kind": "anybody", "name": "x"}]},
        {"needs": [{"count": 1, "kind": "role"}]},
        {"needs": [{"count": 1, "kind": "role", "name": "x"}] * 13},
    ],
)
async def test_a_gate_that_says_nothing_clear_is_never_met(database: Database, gate: dict[str, Any]) -> None:
    voters = [{"kind": "user", "name": f"u{n}", "roles": ["x"]} for n in range(20)]
    met = await database.value(
        "SELECT gate_met($1, false, $2)", orjson.dumps(gate).decode(), orjson.dumps(voters).decode()
    )
    assert met is False


class Reviewer:
    """A run of another agent, started by somebody else, with an execution of `approval.vote` or `approval.read` under way."""

    def __init__(self, tenant: Tenant, agent: str = "reviewer") -> None:
        self.tenant, self.agent, self.user_id, self.run_id = tenant, agent, new_id(), new_id()

    async def start(self, *, user_id: UUID | None = None, parent: UUID | None = None) -> Reviewer:
        database, mine = self.tenant.database, self.tenant.tenant_id
        self.user_id = user_id or self.user_id
        named = f"somebody-{self.user_id.hex}"
        await database.execute(
            "INSERT INTO users VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", mine, self.user_id, named
        )
        await database.execute("INSERT INTO agents VALUES ($1, $2, 1, '{}') ON CONFLICT DO NOTHING", mine, self.agent)
        await database.execute(
            """INSERT INTO runs (tenant_id, run_id, project_id, user_id, agent_name, agent_version, role_name, role_version, status,
               started_at, deadline_at, parent_run_id)
               VALUES ($1, $2, $3, $4, $5, 1, 'worker', 1, 'running', now(), now() + interval '1 day', $6)""",
            mine,
            self.run_id,
            self.tenant.project_id,
            self.user_id,
            self.agent,
            parent,
        )
        return self

    async def executing(self, tool: str, arguments: dict[str, Any], step: int = 1) -> tuple[UUID, bytes]:
        action: dict[str, Any] = {"kind": "tool.call", "tool": tool, "args": arguments}
        plain = await self.tenant.reservation(self.run_id, step)
        reservation = replace(plain, action=canonical_bytes(action), digest=digest(action), tool=tool)
        decision = await self.tenant.ledger.reserve(reservation)
        assert decision.hold_id is not None
        token = (await self.tenant.redeem(await self.tenant.hold(decision.hold_id))).lease_token
        assert await self.tenant.begin(decision.hold_id, token) is not None
        return decision.hold_id, token

    async def votes(self, asked: Asked, verdict: str = "approved", *, binding: str = "", step: int = 1) -> str:
        arguments = {
            "approval_id": str(asked.approval_id),
            "binding": binding or asked.binding.hex(),
            "verdict": verdict,
            "reason": 'it says "fine" – ü',
        }
        hold_id, token = await self.executing("approval.vote", arguments, step)
        executions = Executions(self.tenant.database.engine("executor"))
        statuses = await asyncio.gather(*(executions.vote(hold_id, token) for _ in range(3)))
        assert (await executions.vote(hold_id, b"x" * 32))[0] == "lease_lost"
        assert await executions.read_approval(hold_id, token) is None, "it is not what this hold is for"
        return sorted(status for status, _ in statuses)[0]


async def test_an_agent_votes_as_an_action_of_its_own_run(funded: Tenant) -> None:
    asked = await ask(funded, Need(1, "agent", "reviewer"))
    reviewer = await Reviewer(funded).start()
    executions = Executions(funded.database.engine("executor"))
    shown = orjson.loads(
        await executions.read_approval(
            *await reviewer.executing("approval.read", {"approval_id": str(asked.approval_id)})
        )
        or "null"
    )
    assert (shown["binding"], shown["state"]) == (asked.binding.hex(), "pending")
    stranger = await Reviewer(funded, "stranger").start()
    read = await stranger.executing("approval.read", {"approval_id": str(asked.approval_id)})
    assert await executions.read_approval(*read) is None
    assert await stranger.votes(asked, step=2) == "not_eligible"
    assert await reviewer.votes(asked, binding="00" * 32, step=2) == "changed"
    assert await reviewer.votes(asked, step=3) == "cast"
    assert (await asked.row())["verdict"] == "approved"
    (record,) = await funded.database.fetch(
        "SELECT * FROM decisions WHERE approval_id = $1 AND kind = 'approval'", asked.approval_id
    )
    for part in ("part_a", "part_b"):
        assert canonical_bytes(orjson.loads(record[part])) == record[part], "canonical bytes, as everywhere"
    assert record["record_hash"] == record_hash(record["part_a"], record["part_b"])
    assert orjson.loads(record["part_a"])["facts"]["binding"] == asked.binding.hex()


async def test_no_agent_consents_for_its_own_family_or_for_who_started_it(funded: Tenant) -> None:
    asked = await ask(funded, Need(1, "agent", "reviewer"), Need(1, "agent", "agent"))
    child = await Reviewer(funded).start(parent=asked.run_id)
    grandchild = await Reviewer(funded).start(parent=child.run_id)
    same_agent = await Reviewer(funded, "agent").start()
    by_requester = await Reviewer(funded).start(user_id=funded.user_id)
    parent = await Reviewer(funded).start()
    await funded.database.execute("UPDATE runs SET parent_run_id = $2 WHERE run_id = $1", asked.run_id, parent.run_id)
    for relative in (child, grandchild, same_agent, parent):
        assert await relative.votes(asked) == "own_action"
    assert await by_requester.votes(asked) == "requester"
    assert await (await Reviewer(funded).start()).votes(asked) == "cast"


async def test_an_agent_of_another_tenant_reaches_nothing(funded: Tenant, database: Database) -> None:
    asked = await ask(funded, Need(1, "agent", "reviewer"))
    elsewhere = await new_tenant(database)
    await elsewhere.cap("tenant", 1_000)
    assert await (await Reviewer(elsewhere).start()).votes(asked) == "unknown"
    assert (await asked.row())["verdict"] is None
