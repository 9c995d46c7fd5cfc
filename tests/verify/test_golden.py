"""Bundles of every engine version that ever decided anything hold, for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.verify.engines import ENGINES
from holdfast_verdict.verify.story import chapters, summary
from tests.verify.checking import Check, said
from tests.verify.record_golden import FOLDER, golden_file

KEPT = {
    "policy-1-run.jsonl": "3df6999a98f846ffcd17de495f8ca61cd79de6e0b1db95508e0923a2f4977583",
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
    assert check.by_sums(file.read_bytes())
    report = check(file.read_bytes())
    assert report.holds, said(report)
    assert report.bundle is not None
    assert len(report.bundle.decided) > 10
    assert summary(report)[-1].startswith("All of it holds")
    told = [one for chapter in chapters(report) for one in chapter.told]
    assert len(told) == len(report.bundle.decided)


def test_the_engine_that_decides_now_and_all_before_have_golden_files_and_an_evaluator() -> None:
    assert ENGINE_VERSION in ENGINES
    for version in ENGINES:
        assert golden_file(version, "run").exists(), "record one: python -m tests.verify.record_golden"
