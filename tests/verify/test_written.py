"""What is taken out of a line as it is written is what reading it as JSON gives, and nothing is taken out of what is no such line."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from holdfast_verdict.verify.findings import DoesNotHold
from holdfast_verdict.verify.lines import parse, write
from holdfast_verdict.verify.records import read_part
from holdfast_verdict.verify.written import (
    ENTRY,
    HOLD,
    HOLD_TAKEN,
    PROOF,
    Columns,
    decided_legs,
    entry_legs,
    hold_legs,
    part_b,
)
from tests.verify.record_golden import FOLDER

ENTRY_TAKEN = ("cost_nano_usd", "counts", "entry_id", "hold_id", "kind", "legs", "reason")
PROOF_TAKEN = ("decision_id", "leaf_index", "path", "record_hash")
EDITS = 40
Line = dict[str, Any]  # Any: JSON


def every(kind: str) -> list[Line]:
    files = sorted(FOLDER.iterdir())
    return [
        line for file in files for line in map(orjson.loads, file.read_bytes().splitlines()) if line["type"] == kind
    ]


def text_of(value: object) -> str | None:
    """How a value is taken out: text as it is, all else as it is written; nothing for null."""
    return value if isinstance(value, str) or value is None else orjson.dumps(value).decode()


def columns_of(legs: list[Line], amount: str) -> list[list[str]]:
    names = ("cap_id", amount, "reserved", "committed", "debt")
    return [[leg[name] for leg in legs if name in leg] for name in names] + [
        ["null" if leg["limit"] is None else leg["limit"] for leg in legs if "limit" in leg]
    ]


def said(columns: Columns) -> list[list[str]]:
    caps, amounts, limits, reserved, committed, debt, carried, _ = columns
    assert carried is None
    return [list(each) for each in (caps, amounts, reserved, committed, debt, limits)]


def edited(rng: random.Random, raw: bytes) -> bytes:
    """Another byte, one more, one less, or two that changed places."""
    place = rng.randrange(len(raw))
    match rng.randrange(4):
        case 0:
            return raw[:place] + bytes([rng.choice(b'0123456789abcdef-"\\,:{}[] \xc3\x00nul')]) + raw[place + 1 :]
        case 1:
            return raw[:place] + bytes([rng.choice(b'0 "\\,1-')]) + raw[place:]
        case 2:
            return raw[:place] + raw[place + 1 :]
    return raw[:place] + raw[place : place + 2][::-1] + raw[place + 2 :]


@pytest.mark.parametrize(
    ("kind", "match", "taken", "legs", "amount"),
    [
        ("journal", ENTRY, ENTRY_TAKEN, entry_legs, "none"),
        ("hold", HOLD, HOLD_TAKEN, hold_legs, "amount"),
        ("proof", PROOF, PROOF_TAKEN, None, ""),
    ],
)
def test_a_line_gives_what_its_json_gives(
    kind: str, match: Any, taken: tuple[str, ...], legs: Callable[[str], Columns | None] | None, amount: str
) -> None:
    rng, matched, refused = random.Random(9162), 0, 0
    for line in every(kind):
        whole = write(line)
        variants = [whole, *(edited(rng, whole) for _ in range(EDITS))]
        if "limit" in str(line.get("legs")):
            variants.append(write({**line, "legs": [{**leg, "limit": None} for leg in line["legs"]]}))
        for raw in variants:
            found = match(str(raw, "latin-1"))
            columns = legs(found[taken.index("legs") + 1]) if found and legs else None
            if found is None or (legs is not None and columns is None):
                refused += 1
                continue
            matched += 1
            read: Line = parse(raw)
            assert read["type"] == kind
            assert write(read) == raw
            for name, value in zip(taken, found.groups(), strict=True):
                assert value == text_of(read[name]), name
            if columns is not None:
                assert said(columns) == columns_of(read["legs"], amount)
    assert min(matched, refused) > EDITS


def test_part_b_gives_what_its_json_gives() -> None:
    rng, matched, refused = random.Random(6962), 0, 0
    for line in every("record"):
        whole = line["part_b"].encode()
        part = orjson.loads(whole)
        free = {**part, "legs": [{**leg, "limit": None} for leg in part["legs"]]}
        carried = {**part, "legs": [{**leg, "carried": "7"} for leg in part["legs"]]}
        for raw in (whole, write(free), write(carried), *(edited(rng, whole) for _ in range(EDITS))):
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                continue
            found = part_b(text)
            if found is None:
                refused += 1
                continue
            matched += 1
            _, b = read_part("B", text)
            said_b = (b["decision_id"], b["hold_id"], b["reason_codes"], str(b["time_ms"]), b["verdict"])
            assert said_b == (found.decision_id, found.hold_id, [found.code], found.time_ms, found.verdict)
            assert orjson.loads(found.legs) == b["legs"]
            columns = decided_legs(found.legs)
            assert said(columns) == columns_of(b["legs"], "amount")
            assert list(columns.named) == [(*leg["scope"], leg["unit"], "total") for leg in b["legs"]]
    assert min(matched, refused) > EDITS


def test_what_older_hours_carried_is_read_as_json() -> None:
    line = next(line for line in every("record") if orjson.loads(line["part_b"])["legs"])
    part = orjson.loads(line["part_b"])
    part["legs"][0]["carried"] = "7"
    assert part_b(write(part).decode()) is None
    with pytest.raises(DoesNotHold):
        read_part("B", write({**part, "v": 9}).decode())
