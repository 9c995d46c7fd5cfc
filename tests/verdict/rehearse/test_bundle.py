"""A bundle is rehearsed by several processes as by one: each reads the file itself, and has the runs of its own lane."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import pytest

from holdfast_verdict import Policy
from holdfast_verdict.rehearse import bundle
from holdfast_verdict.rehearse.bundle import BundleUnreadable, rehearse_bundle
from tests.verify.record_golden import FOLDER
from tests.verify.sealing import content_of

TENANT = FOLDER / "policy-1-tenant.jsonl"


def forms(file: Path) -> list[dict[str, object]]:
    lines = map(orjson.loads, file.read_bytes().splitlines())
    return [line["form"] for line in lines if line["type"] == "policy" and line["engine"] == "policy/1"]


def candidates(file: Path) -> list[Policy]:
    """The policies that decided, and each without one of its rules."""
    found = []
    for form in forms(file):
        rules = form["rules"]
        assert isinstance(rules, list)
        found.append(Policy.from_json(form))
        found += [Policy.from_json({**form, "rules": rules[:at] + rules[at + 1 :]}) for at in range(len(rules))]
    return found


def test_lanes_find_what_one_process_finds() -> None:
    changed = 0
    for candidate in candidates(TENANT):
        one = rehearse_bundle(TENANT, candidate, workers=1)
        assert one.decisions > 0
        for workers in (2, 5):
            said: list[tuple[int, int]] = []
            many = rehearse_bundle(TENANT, candidate, workers=workers, say=lambda *told: said.append(told))  # noqa: B023 (called within)
            assert many.to_json() == one.to_json()
            assert said[-1][0] == said[-1][1] > 0
        changed += one.changed
    assert changed, "no candidate would have decided otherwise, so nothing was compared"


def test_a_run_is_in_one_lane_and_lanes_have_about_as_much_to_do() -> None:
    runs = Counter({b"a": 50, b"b": 30, b"c": 20, b"d": 10, b"": 1})
    lanes = bundle._lanes(runs, 2)
    assert sorted(run for own, _ in lanes for run in own) == sorted(runs)
    assert sorted(records for _, records in lanes) == [51, 60]
    assert len(bundle._lanes(Counter({b"a": 5}), 4)) == 1


def test_the_verdict_is_read_from_a_part_as_it_is_written() -> None:
    for line in content_of(TENANT.read_bytes()):
        if line["type"] == "record":
            part = str(line["part_b"])
            assert bundle._verdict(part) == orjson.loads(part)["verdict"]
            assert bundle._verdict(
                orjson.dumps(orjson.loads(part), option=orjson.OPT_INDENT_2).decode()
            ) == bundle._verdict(part)


def test_what_is_no_bundle_is_told_by_every_number_of_processes(tmp_path: Path) -> None:
    candidate = candidates(TENANT)[0]
    broken = tmp_path / "broken.jsonl"
    for content in (b"", b"{}\n", TENANT.read_bytes().replace(b'"created_at_ms"', b'"created_at"')):
        broken.write_bytes(content)
        for workers in (1, 2):
            with pytest.raises(BundleUnreadable):
                rehearse_bundle(broken, candidate, workers=workers)
