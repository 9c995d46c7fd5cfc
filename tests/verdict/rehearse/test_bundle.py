"""A bundle is rehearsed by several processes as by one: each reads the file itself, and has the runs of its own lane."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from holdfast_verdict import Policy
from holdfast_verdict.rehearse import bundle
from holdfast_verdict.rehearse.bundle import rehearse_bundle
from holdfast_verdict.rehearse.places import (
    BundleUnreadable,
    Places,
    lanes_of,
    line_at,
    opened,
    places_in,
    share_out,
)
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


def test_what_was_erased_and_deleted_is_told_by_every_number_of_processes() -> None:
    file = FOLDER / "policy-1-erased.jsonl"
    types = {line["type"] for line in content_of(file.read_bytes())}
    assert types >= {"record", "sealed", "deleted"}
    for candidate in candidates(file):
        one = rehearse_bundle(file, candidate, workers=1)
        assert one.skipped["deleted"] > 0
        assert "unreadable" not in one.skipped
        assert one.decisions > 0
        for workers in (2, 5):
            assert rehearse_bundle(file, candidate, workers=workers).to_json() == one.to_json()


def test_an_admission_that_was_deleted_is_no_action_that_nobody_can_read_though_a_budget_was_held_by_it(
    tmp_path: Path,
) -> None:
    lines = content_of(TENANT.read_bytes())
    admissions = {line["decision_id"] for line in lines if line["type"] == "hold" and line["kind"] == "run.budget"}
    assert admissions
    for line in lines:
        if line["type"] == "record" and line["decision_id"] in admissions:
            line["type"] = "deleted"
            del line["part_a"]
    file = tmp_path / "deleted.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n" for line in lines))
    for candidate in candidates(TENANT):
        found = rehearse_bundle(file, candidate, workers=1)
        assert found.decisions > 0
        assert "deleted" not in found.skipped


def test_shares_are_the_whole_file_in_whole_lines(tmp_path: Path) -> None:
    raw = TENANT.read_bytes()
    for content in (raw, raw.rstrip(b"\n"), b"{}\n", b"{}", b"\n\n\n", raw[:1_000].replace(b"\n", b"")):
        file = tmp_path / "some.jsonl"
        file.write_bytes(content)
        for count in (1, 2, 3, 7, 64):
            with opened(file) as source:
                shares = share_out(source, count)
                parts = [source[begin:end] for begin, end in shares]
            assert b"".join(parts) == content
            assert len(parts) <= count
            assert all(part.endswith(b"\n") for part in parts[:-1])
            assert all(parts)


def test_every_record_is_in_one_lane_with_those_of_its_run_in_their_order() -> None:
    raw = TENANT.read_bytes()
    for shares in (1, 2, 5):
        with opened(TENANT) as source:
            lanes = lanes_of([places_in(source, share) for share in share_out(source, shares)], 3)
            told = [[orjson.loads(line_at(source, place)) for place in lane.records] for lane in lanes]
            held = [[orjson.loads(line_at(source, place)) for place in lane.holds] for lane in lanes]
            heads = [orjson.loads(line_at(source, place))["type"] for place in lanes[0].heads]
        ids = [line["decision_id"] for line in content_of(raw) if line["type"] in ("record", "sealed", "deleted")]
        assert sorted(line["decision_id"] for lane in told for line in lane) == ids
        assert all(lane == sorted(lane, key=lambda line: str(line["decision_id"])) for lane in told)
        runs = [{line["run_id"] for line in lane} for lane in told]
        assert len(lanes) > 1
        assert sum(map(len, runs)) == len(set[str]().union(*runs)), "no run is in two lanes"
        for lane, own in zip(held, runs, strict=True):
            assert {line["run_id"] for line in lane} <= own
        assert sum(map(len, held)) == sum(line["type"] == "hold" for line in content_of(raw))
        assert heads[0] == "header"
        assert set(heads[1:]) == {"policy"}


def test_lanes_have_about_as_much_to_do() -> None:
    def places(**sizes: int) -> Places:
        found = Places()
        for group, size in sizes.items():
            found.records[ord(group)].extend(range(size))
        return found

    lanes = lanes_of([places(a=30, b=30, c=20), places(a=20, d=10, e=1)], 2)
    assert sorted(len(lane.records) for lane in lanes) == [51, 60]
    assert len(lanes_of([places(a=5)], 4)) == 1
    assert len(lanes_of([places()], 4)) == 1


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
