"""Edits of any value at any depth of a bundle, and of the JSON within its records: the verifier never breaks, and none passes."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_verdict.verify.lines import MEMBERS, parse, write
from holdfast_verdict.verify.report import Report
from tests.verify.checking import Check, wrong
from tests.verify.sealing import TestLog, content_of

PARTS = ("part_a", "part_b")
SCALARS: tuple[Any, ...] = (  # Any: JSON
    None, True, False, 0, 1, -1, 2**53 - 1, "", "0", "-0", "1e3", "allow", "deny", "\u00e9\u2028", "00" * 32,
    "01900000-0000-7000-8000-000000000001", [], {}, [[0]], {"": None}, ["allow", 1], {"v": 1, "type": "record"},
)  # fmt: skip


def edit(rng: random.Random, value: Any) -> Any:  # Any: JSON of any form
    """Changes one value somewhere in JSON: replaces it, takes it away, adds one, or says a member twice."""
    if isinstance(value, dict) and value and rng.randrange(10):
        name = rng.choice(sorted(value))
        if name in PARTS and isinstance(value[name], str):
            return {
                **value,
                name: orjson.dumps(edit(rng, orjson.loads(value[name])), option=orjson.OPT_SORT_KEYS).decode(),
            }
        match rng.choice(["within", "within", "within", "away", "more"]):
            case "away":
                return {other: each for other, each in value.items() if other != name}
            case "more":
                return {**value, rng.choice(["", "v", "kind", "odd"]): rng.choice(SCALARS)}
        return {**value, name: edit(rng, value[name])}
    if isinstance(value, list) and value and rng.randrange(10):
        at = rng.randrange(len(value))
        match rng.choice(["within", "within", "away", "twice"]):
            case "away":
                return value[:at] + value[at + 1 :]
            case "twice":
                return [*value[: at + 1], *value[at:]]
        return [*value[:at], edit(rng, value[at]), *value[at + 1 :]]
    return rng.choice(SCALARS)


def told(report: Report) -> bytes:
    """Reads all of a report, so that nothing in it is left unlooked at."""
    return orjson.dumps(report.to_json())


QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUICK
@given(seed=st.integers(0, 2**64))
def test_an_edited_line_never_passes(golden: bytes, check: Check, seed: int) -> None:
    rng = random.Random(seed)
    lines = golden.splitlines()
    place = rng.randrange(len(lines))
    edited = orjson.dumps(edit(rng, orjson.loads(lines[place])), option=orjson.OPT_SORT_KEYS)
    report = check(b"".join(line + b"\n" for line in [*lines[:place], edited, *lines[place + 1 :]]))
    assert report.holds is (edited == lines[place]), edited
    assert told(report)


@QUICK
@given(seed=st.integers(0, 2**64))
def test_content_that_is_edited_and_sealed_anew_never_breaks_the_verifier(
    golden: bytes, check: Check, log: TestLog, seed: int
) -> None:
    rng = random.Random(seed)
    content = content_of(golden)
    place = rng.randrange(len(content))
    edited = edit(rng, content[place])
    if isinstance(edited, dict) and edited.get("type") == content[place]["type"]:
        if edited["type"] == "record" and not all(type(edited.get(name)) is str for name in ("decision_id", *PARTS)):
            return  # nobody can number what has no id or no parts
        if place == 0 and any(name not in edited for name in MEMBERS["header"]):
            return  # nobody can seal what has no header
        report = check(log.bundle([*content[:place], edited, *content[place + 1 :]]), keys=[log.key])
        assert told(report)
        assert report.holds or report.findings


@pytest.mark.parametrize("member", ["time_ms", "verdict", "hold_id", "reason_codes", "cap_id"])
def test_what_a_record_says_in_another_form_is_found_and_never_breaks_the_verifier(
    golden: bytes, check: Check, log: TestLog, member: str
) -> None:
    """What is compared across records has its form: of every kind of record, each member as a list, an object, a number or a flag."""
    content = content_of(golden)
    kinds: dict[str, int] = {}
    for place, line in enumerate(content):
        if line["type"] == "record" and (member != "cap_id" or orjson.loads(str(line["part_b"]))["legs"]):
            kinds.setdefault(str(line["kind"]), place)
    assert kinds
    for kind, place in kinds.items():
        for other in (["a"], {"a": 1}, True, [[0]]):
            part: dict[str, Any] = orjson.loads(str(content[place]["part_b"]))  # Any: JSON
            if member == "cap_id":
                part["legs"][0][member] = other
            else:
                part[member] = [other] if member == "reason_codes" else other
            edited = {**content[place], "part_b": orjson.dumps(part, option=orjson.OPT_SORT_KEYS).decode()}
            report = check(log.bundle([*content[:place], edited, *content[place + 1 :]]), keys=[log.key])
            assert ("audit.record", f"decision {edited['decision_id']}") in wrong(report), (kind, other)
            assert told(report)


@QUICK
@given(seed=st.integers(0, 2**64))
@pytest.mark.parametrize("kind", ["hold", "journal", "cap", "approval", "proof", "lines"])
def test_what_is_read_as_written_is_what_is_read_value_by_value(
    golden: bytes, kind: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    line = rng.choice([each for each in map(orjson.loads, golden.splitlines()) if each["type"] == kind])
    raw = write(edit(rng, line) if rng.randrange(2) else line)
    if rng.randrange(2):
        place = rng.randrange(len(raw))
        raw = raw[:place] + rng.randbytes(rng.randrange(3)) + raw[place + rng.randrange(2) :]
    fast = outcome(raw)
    with monkeypatch.context() as patched:
        patched.setattr("holdfast_verdict.verify.lines._MATCHERS", dict.fromkeys(MEMBERS))
        assert outcome(raw) == fast


def outcome(raw: bytes) -> object:
    try:
        return parse(raw)
    except Exception as error:  # noqa: BLE001 (what is compared is how it ends, whatever it is)
        return type(error), str(error)
