"""Whole verdicts: the sentence, the trace and the facts that were read are kept in records, so none of them changes unseen."""

from __future__ import annotations

import json

import pytest

from holdfast_verdict.engine.recorded import facts_from_json

from .whole import FILE, GROUPS, written

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))


def test_all_groups_are_written_down() -> None:
    assert EXPECTED.keys() == GROUPS.keys()


@pytest.mark.parametrize("group", GROUPS)
def test_verdicts_are_what_was_written_down(group: str) -> None:
    assert json.loads(json.dumps(written(group))) == EXPECTED[group]


@pytest.mark.parametrize("group", GROUPS)
def test_each_case_has_a_name_of_its_own(group: str) -> None:
    names = [name for name, _ in GROUPS[group]()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("group", GROUPS)
def test_facts_that_were_read_are_facts_again(group: str) -> None:
    for _, verdict in GROUPS[group]():
        read = facts_from_json(verdict.facts_read)
        assert facts_from_json(read.to_json()) == read
