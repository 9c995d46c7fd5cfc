"""Whose word it is: keys, checkpoints of other trees and other times, and the log's past."""

from __future__ import annotations

import orjson

from holdfast_verdict.log.tree import root_of
from holdfast_verdict.verify.lines import Line, write
from holdfast_verdict.verify.story import summary
from tests.verify.checking import Check, said, wrong
from tests.verify.sealing import TestLog


def with_line(bundle: bytes, kind: str, **members: str | int) -> bytes:
    lines = [orjson.loads(raw) for raw in bundle.splitlines()]
    return b"".join(write({**line, **members} if line["type"] == kind else line) + b"\n" for line in lines)


def without(bundle: bytes, kind: str) -> bytes:
    lines = [orjson.loads(raw) for raw in bundle.splitlines()]
    left = [line for line in lines if line["type"] != kind]
    left[-1]["lines"] = len(left)
    return b"".join(write(line) + b"\n" for line in left)


def test_without_a_checkpoint_nothing_is_proved(whole: bytes, check: Check) -> None:
    report = check(without(whole, "checkpoint"))
    assert not report.holds
    assert ("audit.checkpoint", "the checkpoint") in wrong(report)
    assert any("NOTHING in it is proved" in sentence for sentence in summary(report))


def test_it_says_plainly_that_the_key_came_from_the_bundle(whole: bytes, log: TestLog, check: Check) -> None:
    report = check(whole)
    assert report.holds
    assert report.trust.source == "bundle"
    assert any("THE BUNDLE ITSELF" in sentence for sentence in summary(report))
    assert not any("THE BUNDLE ITSELF" in sentence for sentence in summary(check(whole, keys=[log.key])))


def test_signed_anew_with_another_key_it_is_found_by_who_knows_the_right_one(
    content: list[Line], log: TestLog, check: Check
) -> None:
    other = TestLog(log.origin, seed=b"another")
    bundle = other.bundle(content)
    assert check(bundle).holds  # whoever trusts the file trusts whoever made it: so it says, see above
    report = check(bundle, keys=[log.key])
    assert wrong(report)[0][0] == "audit.signature"
    # the right key's name and id on another's signature do not help
    signed = with_line(bundle, "checkpoint", note=log.note([b"0" * 32]))
    assert not check(signed, keys=[log.key]).holds


def test_another_tenants_checkpoint_is_found(content: list[Line], log: TestLog, check: Check) -> None:
    other = TestLog(log.origin[:-1] + "0")
    bundle = with_line(log.bundle(content), "checkpoint", note=other.note([b"1" * 32] * 50))
    report = check(bundle, keys=[log.key, other.key])
    assert ("audit.checkpoint", "the checkpoint") in wrong(report)
    renamed = with_line(bundle, "header", origin=other.origin)
    assert not check(renamed, keys=[log.key, other.key]).holds


def test_a_replayed_checkpoint_does_not_cover_what_came_after_it(
    content: list[Line], log: TestLog, check: Check
) -> None:
    older = log.note([*log.before, b"x" * 32])
    report = check(with_line(log.bundle(content), "checkpoint", note=older), keys=[log.key])
    assert {code for code, _ in wrong(report)} == {"audit.inclusion"}
    last = [line["decision_id"] for line in content if line["type"] == "record"][-1]
    assert ("audit.inclusion", f"decision {last}") in wrong(report)


def test_a_log_that_goes_on_holds_and_one_that_was_forked_truncated_or_rolled_back_does_not(
    content: list[Line], log: TestLog, check: Check
) -> None:
    bundle = log.bundle(content, since=(2, 3))
    seen = log.note(log.before)
    report = check(bundle, keys=[log.key], since=seen)
    assert report.holds, said(report)
    assert report.trust.since == 3
    assert check(bundle, keys=[log.key], since=log.note(log.before[:2])).holds

    forked = TestLog(log.origin, before=[*log.before[:2], b"another" + bytes(25)])
    assert wrong(check(forked.bundle(content, since=(2, 3)), keys=[log.key], since=seen)) == [
        ("audit.consistency", "the earlier checkpoint")
    ]
    longer = log.note([*log.before, *[b"more" + bytes(28)] * 500])
    assert wrong(check(bundle, keys=[log.key], since=longer)) == [("audit.consistency", "the earlier checkpoint")]
    rolled_back = TestLog(log.origin, before=log.before[:1])
    assert not check(rolled_back.bundle(content), keys=[log.key], since=seen).holds


def test_a_proof_of_consistency_is_needed_and_has_to_lead_there(
    content: list[Line], log: TestLog, check: Check
) -> None:
    seen = log.note(log.before)
    report = check(log.bundle(content), keys=[log.key], since=seen)
    assert wrong(report) == [("audit.consistency", "the earlier checkpoint")]
    assert "export it again with this checkpoint" in said(report)
    bundle = with_line(log.bundle(content, since=(3,)), "consistency", from_root=root_of(log.before[:2]).hex())
    assert ("audit.consistency", "proof of consistency from 3") in wrong(check(bundle, keys=[log.key]))


def test_the_earlier_checkpoint_has_to_be_signed_by_the_same_log(
    content: list[Line], log: TestLog, check: Check
) -> None:
    bundle = log.bundle(content, since=(3,))
    stranger = TestLog(log.origin, seed=b"another").note(log.before)
    elsewhere = TestLog("elsewhere.example/log")
    for seen in (stranger, elsewhere.note(log.before), "no note", log.note(log.before)[:-10]):
        report = check(bundle, keys=[log.key, elsewhere.key], since=seen)
        assert ("audit.consistency", "the earlier checkpoint") in wrong(report)
        assert report.trust.since is None
