"""`holdfast policy push … log` against a whole stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .desk import Desk

POLICY = """role helper {
  permit llm.call
  permit tools
}
"""
CASES = """
[[case]]
name = "it may read mail"
role = "helper"
action = "mail.list"
expect = "{expect}"
"""


async def test_a_policy_goes_from_a_file_to_the_server_and_back(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "desk.policy"
    file.write_text(POLICY)
    cases = tmp_path / "desk.cases.toml"
    cases.write_text(CASES.format(expect="deny"))
    refused = await desk.holdfast("policy", "push", str(file))
    assert refused.exit_code == 1
    assert "case 'it may read mail'" in refused.stderr
    assert "policy.cases_failed" in refused.stderr
    cases.write_text(CASES.format(expect="allow"))
    pushed = await desk.answer("policy", "push", str(file), "--note", "to try")
    version = pushed["policy"]["version"]
    assert (pushed["policy"]["origin"], pushed["policy"]["note"], pushed["activation"]) == ("written", "to try", None)
    before = next(each for each in await desk.answer("policy", "list") if each["active"])
    assert before["origin"] == "tables"
    assert (await desk.holdfast("policy", "show", str(version))).stdout == POLICY
    assert (await desk.answer("policy", "show"))["version"] == before["version"]
    assert (await desk.holdfast("policy", "shadow", str(version))).exit_code == 0
    report = await desk.answer("policy", "shadow", "--report")
    assert (report["version"], report["different"]) == (version, 0)
    assert (await desk.holdfast("policy", "shadow", "--off")).exit_code == 0
    try:
        done = await desk.holdfast("policy", "activate", str(version), "--reason", "tried for a week")
        assert done.stdout == f"version {version} is active\n"
    finally:
        back = await desk.answer("policy", "rollback", "--reason", "only a try")
    assert back["version"] == before["version"]
    log = (await desk.holdfast("policy", "log")).stdout
    for words in ("tried for a week", "only a try", f"activate {version}", "roll back", "shadow ended"):
        assert words in log


async def test_a_recorded_decision_is_explained_in_the_words_of_a_hypothetical_one(desk: Desk) -> None:
    run_id = await desk.start({"tool": "mail.list", "arguments": {}}, {"say": "bye"})
    assert await desk.ended(run_id) == "succeeded"
    [decision] = [one for one in await desk.answer("decisions", "--run", run_id) if one["tool"] == "mail.list"]
    done = await desk.holdfast("policy", "explain", decision["decision_id"])
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert said[0].startswith("decided at ")
    assert said[1].startswith(f"{decision['verdict']}  {decision['reason_codes'][0]}")
    assert "decided by" in said
    told = await desk.answer("policy", "explain", decision["decision_id"])
    assert (told["rule_id"], told["cannot"]) == (decision["rule_id"], [])
    nobody = await desk.holdfast("policy", "explain", "01a2193f-cd02-7104-a668-8f4dc5dface5")
    assert (nobody.exit_code, "there is no decision" in nobody.stderr) == (1, True)
    no_request = await desk.holdfast("policy", "explain", "no.policy")
    assert (no_request.exit_code, "needs a REQUEST" in no_request.stderr) == (2, True)


async def test_what_is_wrong_is_marked_in_the_text_and_given_to_machines(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "wrong.policy"
    file.write_text("role helper {\n  permit mail.lst\n}\n")
    refused = await desk.holdfast("policy", "push", str(file))
    assert refused.exit_code == 1
    assert "permit mail.lst" in refused.stderr
    assert "policy.refused" in refused.stderr
    told = json.loads((await desk.holdfast("policy", "push", str(file), "--json")).stdout)
    assert (told["ok"], told["problems"][0]["line"], told["problems"][0]["column"]) == (False, 2, 10)


@pytest.mark.parametrize("wrong", [[], ["1", "--off"], ["--off", "--report"]])
async def test_shadow_says_what_it_takes(desk: Desk, wrong: list[str]) -> None:
    assert (await desk.holdfast("policy", "shadow", *wrong)).exit_code == 2
