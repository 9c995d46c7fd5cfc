"""The replay finds what a policy lets through: one that permits everything fails, one that permits nothing stops everything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.agentdojo import measure as agentdojo
from bench.agentdojo.gate import Gate
from bench.agentdojo.governed import GovernedGate, open_place
from bench.agentdojo.measure import Replay
from bench.agentdojo.memory import MemoryGate
from bench.agentdojo.suite import DEFAULT_ATTACK, DEFAULT_VERSION, Suite
from holdfast.errors import ConfigurationInvalid
from holdfast_verdict import compile_policy
from tests.docs.pages import ROOT

POLICIES = ROOT / "bench" / "agentdojo" / "policies"
EVERYTHING = "role assistant { permit * }"
NOTHING_BUT_READING = "role assistant { permit get_*\n permit read_file }"
EVERYTHING_ASKED = """
role assistant { permit * }
gate money: send_money, schedule_transaction, update_scheduled_transaction needs 1 of role("owner"), expires 1h
gate owner: update_password, update_user_info needs 1 of role("owner"), expires 1h
"""


@pytest.fixture(scope="module")
def banking() -> Suite:
    return Suite("banking", DEFAULT_VERSION, DEFAULT_ATTACK)


def replay(suite: Suite, text: str) -> Replay:
    policy = compile_policy(text, suite.catalogue())

    async def opened(environment: Any) -> Gate:  # Any: each suite has a type of its own
        return MemoryGate(policy, suite.catalogue(policy), "assistant", suite.runtime, environment)

    return Replay(suite, opened)


async def outcomes(suite: Suite, text: str) -> list[str]:
    under = replay(suite, text)
    pairs = [await under.pair(suite.user_tasks()[0], task) for task in under.replayable(suite.injection_tasks())]
    assert all(pair is not None and pair.read for pair in pairs)
    return [pair.outcome for pair in pairs if pair is not None]


async def test_without_rules_every_task_passes_and_every_attack_runs(banking: Suite) -> None:
    under = replay(banking, EVERYTHING)
    for task in banking.user_tasks():
        assert (await under.user(task)).unasked
    assert set(await outcomes(banking, EVERYTHING)) == {"ran"}


async def test_with_reading_alone_every_attack_is_denied(banking: Suite) -> None:
    assert set(await outcomes(banking, NOTHING_BUT_READING)) == {"denied"}
    results = [await replay(banking, NOTHING_BUT_READING).user(task) for task in banking.user_tasks()]
    assert 0 < sum(result.unasked for result in results) < len(results)
    assert all(result.unasked == result.with_approval for result in results)


async def test_where_everything_is_asked_attacks_are_held_and_tasks_pass_with_approval(banking: Suite) -> None:
    assert set(await outcomes(banking, EVERYTHING_ASKED)) == {"held"}
    result = await replay(banking, EVERYTHING_ASKED).user(banking.user_tasks()[0])
    assert (result.unasked, result.with_approval) == (False, True)


async def test_at_the_servers_gate_each_executed_call_has_its_decision_and_settled_hold(banking: Suite) -> None:
    policy = compile_policy(EVERYTHING_ASKED, banking.catalogue())
    gates: list[GovernedGate] = []
    async with open_place(EVERYTHING_ASKED, policy, banking.catalogue(policy), "assistant") as place:

        async def opened(environment: Any) -> Gate:  # Any: each suite has a type of its own
            gates.append(GovernedGate(place, await place.begin(), banking.runtime, environment))
            return gates[-1]

        under = Replay(banking, opened)
        result = await under.user(banking.user_tasks()[0])
        attack = under.replayable(banking.injection_tasks())[0]
        pair = await under.pair(banking.user_tasks()[0], attack)
        books = await place.books()
        votes = await place.server.superuser.fetchval("SELECT count(*) FROM approval_votes WHERE verdict = 'approved'")
        used = await place.server.superuser.fetchval("SELECT count(*) FROM approvals WHERE consumed_by IS NOT NULL")
        decided = await place.server.superuser.fetch("SELECT verdict, count(*) FROM decisions GROUP BY verdict")
    assert (result.unasked, result.with_approval) == (False, True)
    assert pair is not None
    assert (pair.read, pair.outcome) == (True, "held")
    executed = sum(gate.executed for gate in gates)
    assert executed == books.holds == books.committed > 3
    assert votes == used == 2  # the user's payment, alone and in the pair; the attacker's got none
    asked = sum(row["count"] for row in decided if row["verdict"] == "needs_approval")
    assert books.decisions == executed + asked


async def test_both_gates_say_the_same_of_a_task_and_an_attack(banking: Suite) -> None:
    text = (POLICIES / "banking.policy").read_text(encoding="utf-8")
    policy = compile_policy(text, banking.catalogue())
    in_memory = replay(banking, text)
    task = banking.user_tasks()[0]
    async with open_place(text, policy, banking.catalogue(policy), "assistant") as place:

        async def opened(environment: Any) -> Gate:  # Any: each suite has a type of its own
            return GovernedGate(place, await place.begin(), banking.runtime, environment)

        governed = Replay(banking, opened)
        said = []
        for each in (governed, in_memory):
            calls = (await each.user(task)).calls
            said.append([(call.tool, call.verdict, call.code, call.rule) for call in calls])
        for attack in governed.replayable(banking.injection_tasks())[:3]:
            here, there = await governed.pair(task, attack), await in_memory.pair(task, attack)
            assert here is not None
            assert there is not None
            assert here.to_json() == there.to_json()
    assert said[0] == said[1]


def test_an_output_is_untrusted_unless_the_policy_says_something_of_it(banking: Suite) -> None:
    labels = "label get_iban yields nothing\nlabel get_balance yields secret\nlabel get_* yields untrusted\n"
    text = f"{labels}role assistant {{ permit get_iban }}"
    said = compile_policy(text, banking.catalogue())
    assert banking.catalogue(said).types["read_file"].yields[""] == ("untrusted",)
    assert not any(banking.catalogue(said).types["get_iban"].yields.values())
    secret = compile_policy("label get_balance yields secret\nrole assistant { permit get_iban }", banking.catalogue())
    assert banking.catalogue(secret).types["get_balance"].yields[""] == ("untrusted",)


@pytest.mark.parametrize("name", sorted(path.stem for path in POLICIES.glob("*.policy")))
def test_each_policy_here_compiles_for_its_suite(name: str) -> None:
    suite = Suite(name, DEFAULT_VERSION, DEFAULT_ATTACK)
    compile_policy((POLICIES / f"{name}.policy").read_text(encoding="utf-8"), suite.catalogue())


def test_a_policy_with_problems_ends_it_with_2_and_they_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.policy"
    path.write_text("role assistant { permit send_mony\n permit read_file where args.path == 1 }", encoding="utf-8")
    with pytest.raises(typer.Exit) as ended:
        asyncio.run(agentdojo.measure(quick=True, suite="banking", policy=path))
    assert ended.value.exit_code == 2
    printed = capsys.readouterr().err
    assert "send_mony" in printed
    assert "args.path" in printed


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    policy = POLICIES / "banking.policy"
    for wrong in (
        {"suite": "", "policy": policy},
        {"suite": "nobody", "policy": policy},
        {"suite": "banking", "policy": tmp_path / "none.policy"},
        {"suite": "banking", "policy": policy, "suite_version": "v9"},
        {"suite": "banking", "policy": policy, "attack": "kindness"},
        {"suite": "banking", "policy": policy, "role": "nobody"},
    ):
        with pytest.raises(ConfigurationInvalid):
            asyncio.run(agentdojo.measure(quick=True, **wrong))  # type: ignore[arg-type]  # each has other types
