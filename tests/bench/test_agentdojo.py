"""The replay finds what a policy lets through: one that permits everything fails, one that permits nothing stops everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import typer

from bench.agentdojo import measure as agentdojo
from bench.agentdojo.measure import Replay
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
    return Replay(suite, compile_policy(text, suite.catalogue()), "assistant")


def outcomes(suite: Suite, text: str) -> list[str]:
    under = replay(suite, text)
    pairs = [under.pair(suite.user_tasks()[0], task) for task in under.replayable(suite.injection_tasks())]
    assert all(pair is not None and pair.read for pair in pairs)
    return [pair.outcome for pair in pairs if pair is not None]


def test_without_rules_every_task_passes_and_every_attack_runs(banking: Suite) -> None:
    under = replay(banking, EVERYTHING)
    assert all(under.user(task).unasked for task in banking.user_tasks())
    assert set(outcomes(banking, EVERYTHING)) == {"ran"}


def test_with_reading_alone_every_attack_is_denied(banking: Suite) -> None:
    assert set(outcomes(banking, NOTHING_BUT_READING)) == {"denied"}
    results = [replay(banking, NOTHING_BUT_READING).user(task) for task in banking.user_tasks()]
    assert 0 < sum(result.unasked for result in results) < len(results)
    assert all(result.unasked == result.with_approval for result in results)


def test_where_everything_is_asked_attacks_are_held_and_tasks_pass_with_approval(banking: Suite) -> None:
    assert set(outcomes(banking, EVERYTHING_ASKED)) == {"held"}
    result = replay(banking, EVERYTHING_ASKED).user(banking.user_tasks()[0])
    assert (result.unasked, result.with_approval) == (False, True)


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
    ):
        with pytest.raises(ConfigurationInvalid):
            asyncio.run(agentdojo.measure(quick=True, **wrong))  # type: ignore[arg-type]  # each has other types
