"""Sums find what only they can find: each of these forgeries holds line by line, and makes one sum another than that of its other side.

`check` verifies by sums as well, and sees that they say of it what the comparison of all lines says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.verify.lines import Line
from holdfast_verdict.verify.sums import new_key, weigher
from tests.verify.checking import Check, wrong
from tests.verify.record_golden import golden_file
from tests.verify.sealing import TestLog, content_of, hash_of

Content = list[dict[str, Any]]  # Any: JSON


def test_the_same_things_come_to_the_same_sum_in_any_order_and_others_do_not() -> None:
    weigh = weigher(new_key())
    things = [f"thing {number % 7}" for number in range(50)]
    assert sum(map(weigh, things)) == sum(map(weigh, reversed(things)))
    assert sum(map(weigh, things)) != sum(map(weigh, [*things[:-1], "another"]))
    assert sum(map(weigh, ["a", "a"])) != sum(map(weigh, ["b", "b"]))
    assert weigher(new_key())("a") != weigh("a"), "the key is another each time"


def _editable(bundle: bytes) -> Content:
    return [dict(line) for line in content_of(bundle)]


def _read_otherwise(content: Content) -> tuple[str, str]:
    """A decision that says of a cap another balance than the journal comes to, with room for it."""
    line = next(
        each
        for each in content
        if each["type"] == "record"
        and each["kind"] == "llm.call"
        and orjson.loads(each["part_b"])["verdict"] == "allow"
    )
    part = orjson.loads(line["part_b"])
    part["legs"][0]["committed"] = str(int(part["legs"][0]["committed"]) + 1)
    line["part_b"] = canonical_bytes(part).decode()
    return "audit.balance", f"decision {line['decision_id']}"


def _another_limit(content: Content) -> tuple[str, str]:
    """A limit in the journal that is not the one which the decision read, when nothing of the cap was used yet."""
    entry = next(
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "reserve" and each["reason"] == "llm.call"
    )
    entry["legs"][0]["limit"] = str(int(entry["legs"][0]["limit"]) + 1)
    hold = next(each for each in content if each["type"] == "hold" and each["hold_id"] == entry["hold_id"])
    return "audit.balance", f"decision {hold['decision_id']}"


def _took_otherwise(content: Content) -> tuple[str, str]:
    """An entry that took other amounts than the hold has; it is said not to count, so nothing else depends on it."""
    entry = next(
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "reserve" and each["reason"] == "llm.call"
    )
    entry["counts"] = False
    entry["legs"][0]["reserved"] = str(int(entry["legs"][0]["reserved"]) + 1)
    return "audit.balance", f"hold {entry['hold_id']}"


def _cost_otherwise(content: Content) -> tuple[str, str]:
    """A payment that is smaller in the journal than the hold says."""
    entry = next(
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "commit" and int(each["cost_nano_usd"])
    )
    money = {each["cap_id"] for each in content if each["type"] == "cap" and each["unit"] == "nano_usd"}
    entry["cost_nano_usd"] = str(int(entry["cost_nano_usd"]) - 1)
    for leg in entry["legs"]:
        if leg["cap_id"] in money:
            leg["committed"] = str(int(leg["committed"]) - 1)
    return "audit.balance", f"hold {entry['hold_id']}"


def _of_no_balances(content: Content) -> Content:
    """The caps' balances are not said, as of caps that other runs use as well, so that they give nothing away."""
    for line in content:
        if line["type"] == "cap":
            line["opening"] = line["closing"] = None
    return content


def _sealed(log: TestLog, content: Content) -> bytes:
    lines: list[Line] = list(content)
    return log.bundle(lines)


@pytest.mark.parametrize("forge", [_read_otherwise, _another_limit])
def test_what_a_decision_read_is_what_the_journal_comes_to(
    whole: bytes, log: TestLog, check: Check, forge: Callable[[Content], tuple[str, str]]
) -> None:
    content = _editable(whole)
    assert check.by_sums(_sealed(log, content))
    found = forge(content)
    assert found in wrong(check(_sealed(log, content)))


def _over_its_limit(content: Content) -> tuple[str, str]:
    """An allow that takes more than the cap has left; nobody says how the cap stood."""
    return _limited(content, "allow", "")


def _refused_with_room(content: Content) -> tuple[str, str]:
    """A refusal for want of room, where every cap has enough."""
    return _limited(content, "deny", "budget.cap_exceeded")


def _limited(content: Content, verdict: str, code: str) -> tuple[str, str]:
    for line in content:
        if line["type"] != "record" or line["kind"] != "llm.call":
            continue
        part = orjson.loads(line["part_b"])
        if part["verdict"] != "allow":
            continue
        hold_id = part["hold_id"]
        if code:
            part |= {"verdict": verdict, "reason_codes": [code], "hold_id": None}
            content[:] = [each for each in content if each.get("hold_id") != hold_id]
        else:
            part["legs"][0]["limit"] = "1"
            for entry in content:
                if entry["type"] == "journal" and entry["hold_id"] == hold_id and entry["kind"] == "reserve":
                    entry["legs"][0]["limit"] = "1"
        line["part_b"] = canonical_bytes(part).decode()
        return "audit.balance", f"decision {line['decision_id']}"
    raise AssertionError("there is no such decision")


def _took_and_paid(content: Content) -> tuple[str, str]:
    """An entry that takes a hold and charges something at once."""
    entry = next(
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "reserve" and each["reason"] == "llm.call"
    )
    entry["legs"][0]["committed"] = "1"
    return "audit.balance", f"hold {entry['hold_id']}"


def _charged_otherwise(content: Content) -> tuple[str, str]:
    """A cap of money that was charged less than it cost."""
    money = {each["cap_id"] for each in content if each["type"] == "cap" and each["unit"] == "nano_usd"}
    entry = next(
        each
        for each in content
        if each["type"] == "journal" and each["kind"] == "commit" and int(each["cost_nano_usd"])
    )
    leg = next(leg for leg in entry["legs"] if leg["cap_id"] in money)
    leg["committed"] = str(int(leg["committed"]) - 1)
    return "audit.balance", f"journal entry {entry['entry_id']}"


def _another_id(content: Content) -> tuple[str, str]:
    """A record's part B that is of another decision than its line."""
    line = next(each for each in content if each["type"] == "record" and each["kind"] == "run.history")
    part = orjson.loads(line["part_b"])
    part["decision_id"] = part["decision_id"][:-1] + ("0" if part["decision_id"][-1] != "0" else "1")
    line["part_b"] = canonical_bytes(part).decode()
    return "audit.record", f"decision {line['decision_id']}"


@pytest.mark.parametrize(
    "forge",
    [
        _took_otherwise,
        _cost_otherwise,
        _over_its_limit,
        _refused_with_room,
        _took_and_paid,
        _charged_otherwise,
        _another_id,
    ],
)
def test_a_hold_is_taken_and_returned_as_it_says(
    golden: bytes, check: Check, forge: Callable[[Content], tuple[str, str]]
) -> None:
    content = _of_no_balances(_editable(golden))
    log = TestLog(str(content[0]["origin"]))
    assert check.by_sums(_sealed(log, content))
    found = forge(content)
    assert found in wrong(check(_sealed(log, content)))


def test_a_record_that_is_not_the_one_in_the_log_is_found(golden: bytes, check: Check) -> None:
    content = _editable(golden)
    log = TestLog(str(content[0]["origin"]))
    line = next(each for each in content if each["type"] == "record" and each["kind"] == "run.history")
    logged = {line["decision_id"]: hash_of(line)}
    part = orjson.loads(line["part_a"])
    part["facts"]["odd"] = 1
    line["part_a"] = canonical_bytes(part).decode()
    lines: list[Line] = list(content)
    assert wrong(check(log.bundle(lines, logged=logged))) == [("audit.inclusion", f"decision {line['decision_id']}")]


def test_a_path_that_does_not_lead_to_the_root_is_found(golden: bytes, check: Check) -> None:
    lines = golden.splitlines()
    place = next(place for place, raw in enumerate(lines) if b'"type":"proof"' in raw)
    proof = orjson.loads(lines[place])
    proof["path"] = proof["path"][:-8] + ("A" if proof["path"][-8] != "A" else "B") + proof["path"][-7:]
    bundle = b"".join(raw + b"\n" for raw in [*lines[:place], orjson.dumps(proof), *lines[place + 1 :]])
    assert ("audit.inclusion", f"decision {proof['decision_id']}") in wrong(check(bundle))


def test_what_was_erased_is_told_by_sums_as_well(check: Check) -> None:
    content = _editable(golden_file("policy/1", "sealed").read_bytes())
    for line in content:
        if line["type"] == "sealed":
            line["salt"] = line["opened"] = None
    bundle = _sealed(TestLog(str(content[0]["origin"])), content)
    assert check.by_sums(bundle)
    report = check(bundle)
    assert report.holds
    assert {one.path for one in report.withheld} == {"args/text"}
