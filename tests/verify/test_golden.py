"""Bundles of every engine version that ever decided anything hold, for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.sealing import RECORD_VERSION
from holdfast_verdict.verify.engines import ENGINES
from holdfast_verdict.verify.story import chapters, summary
from tests.verify.checking import Check, said
from tests.verify.record_golden import FOLDER, SECRET, golden_file
from tests.verify.sealing import hash_of

KEPT = {
    "policy-1-erased.jsonl": "cc53a37675f42e606fd3bf1f79bbbe5a86408e2bfccc1b4874710f5232802339",
    "policy-1-run.jsonl": "3df6999a98f846ffcd17de495f8ca61cd79de6e0b1db95508e0923a2f4977583",
    "policy-1-sealed.jsonl": "20c5af268c14faea91fd76f0305a879a8ed972e19218e2e4a006546c9486c163",
    "policy-1-tenant.jsonl": "7d9645b34c77e7867cc482906f4d178180837b253b78ba5575a6023a9cd784b1",
    "rules-2-run.jsonl": "b8aef173bc34932ef327637beb49cedb09b7f44ff3dde50fe2485ab7819cb36b",
    "rules-2-tenant.jsonl": "a9775de037ba912f633c50dd0a6d6436fa2fd980cd5463aef61de1acaf2397a5",
}
"""SHA-256 of each golden file: none is ever recorded anew. Another engine version gets files of its own beside these."""


def test_every_golden_file_is_as_it_was_recorded() -> None:
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in FOLDER.iterdir()}
    assert found == KEPT


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.stem)
def test_it_holds(file: Path, check: Check) -> None:
    # of what was deleted, sums cannot tell that its hold is for what was decided
    assert check.by_sums(file.read_bytes()) == (b'"type":"deleted"' not in file.read_bytes())
    report = check(file.read_bytes())
    assert report.holds, said(report)
    assert report.bundle is not None
    assert len(report.bundle.decided) > 10
    assert summary(report)[-1].startswith("All of it holds")
    told = [one for chapter in chapters(report) for one in chapter.told]
    assert len(told) == len(report.bundle.decided)


def test_the_engine_that_decides_now_and_all_before_have_golden_files_and_an_evaluator() -> None:
    assert ENGINE_VERSION in ENGINES
    assert {golden_file(ENGINE_VERSION, scope).exists() for scope in ("sealed", "erased")} == {True}
    for version in ENGINES:
        assert golden_file(version, "run").exists(), "record one: python -m tests.verify.record_golden"


def _lines(scope: str) -> list[dict[str, Any]]:
    return [orjson.loads(raw) for raw in golden_file("policy/1", scope).read_bytes().splitlines()]


def test_records_of_version_2_are_evaluated_on_their_values_and_stay_whole_without_them(check: Check) -> None:
    sealed = [line for line in _lines("sealed") if line["type"] == "sealed"]
    assert {orjson.loads(line["part_a"])["v"] for line in sealed} == {RECORD_VERSION}
    assert all(line["salt"] and line["opened"] for line in sealed)
    # its trace may quote it, where the policy's own text has it
    assert all(SECRET not in str(orjson.loads(line["part_a"])["action"]) for line in sealed)
    report = check(golden_file("policy/1", "sealed").read_bytes())
    assert (report.withheld, report.deleted) == ([], 0)
    assert report.bundle is not None
    verdicts = {one.verdict for one in report.bundle.decided if one.tool == "crm.note"}
    assert verdicts == {"allow", "deny", "needs_approval"}

    later = {line["decision_id"]: line for line in _lines("erased") if line["type"] in ("sealed", "deleted")}
    erased = {name for name, line in later.items() if line["type"] == "sealed" and line["salt"] is None}
    report = check(golden_file("policy/1", "erased").read_bytes())
    assert report.holds, said(report)
    assert {one.decision_id for one in report.withheld} <= erased
    assert {one.path for one in report.withheld} == {"args/text"}
    assert report.deleted == len([line for line in later.values() if line["type"] == "deleted"]) > 0
    # what was taken away is the same record, at its place in the log
    for before in sealed:
        after = later.get(before["decision_id"])
        assert after is not None
        assert hash_of(after) == hash_of(before)
