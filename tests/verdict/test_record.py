"""A decision record's hash covers every byte of both parts."""

from __future__ import annotations

import hashlib
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict.canonical import canonical_bytes, digest
from holdfast_verdict.decide import ENGINE_VERSION, Facts, Verdict, decide
from holdfast_verdict.record import part_a, part_b, record_hash

from .actions import actions, facts

parts = st.binary(max_size=40)


@given(parts, parts)
def test_it_is_the_leaf_hash_over_the_digests_of_the_parts(a: bytes, b: bytes) -> None:
    leaf = b"\0" + hashlib.sha256(a).digest() + hashlib.sha256(b).digest()
    assert record_hash(a, b) == hashlib.sha256(leaf).digest()


@given(parts, parts, parts, parts)
def test_other_parts_have_another_hash(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    assert (record_hash(a, b) == record_hash(c, d)) == ((a, b) == (c, d))


def test_every_flipped_bit_shows() -> None:
    a, b = _parts(Facts({"role": "r"}, (), "00", known=True), {"kind": "llm.call", "args": {}})
    seen = {record_hash(a, b)}
    for part, flip in ((a, lambda x: (x, b)), (b, lambda x: (a, x))):
        for place in range(len(part)):
            for bit in range(8):
                changed = bytearray(part)
                changed[place] ^= 1 << bit
                seen.add(record_hash(*flip(bytes(changed))))
    assert len(seen) == 1 + 8 * (len(a) + len(b))


def _parts(given_facts: Facts, action: dict[str, object]) -> tuple[bytes, bytes]:
    verdict: Verdict = decide(given_facts, action)  # type: ignore[arg-type]  # drawn from canonical values
    a = part_a(
        subject={"run": "r", "step": 1},
        action=action,  # type: ignore[arg-type]  # as above
        action_digest=digest(action),
        facts=given_facts,
        verdict=verdict,
        prices={"input": "3000"},
    )
    b = part_b(
        decision_id=UUID(int=1), time_ms=1, verdict=verdict.verdict, reason_codes=(verdict.code,), hold_id=None, legs=[]
    )
    return a, b


@given(facts, actions)
def test_a_record_holds_what_it_takes_to_decide_again(given_facts: Facts, action: dict[str, object]) -> None:
    a, b = _parts(given_facts, action)
    assert canonical_bytes(orjson.loads(a)) == a
    assert canonical_bytes(orjson.loads(b)) == b
    read = orjson.loads(a)
    assert (read["engine"], read["action"], read["policy_hash"]) == (ENGINE_VERSION, action, given_facts.policy_hash)
    assert read["action_digest"] == digest(read["action"]).hex()
    again = decide(given_facts, read["action"])
    assert (again.verdict, again.code, again.rule_id) == tuple(
        read["evaluated"][name] for name in ("verdict", "code", "rule_id")
    )
    assert list(again.trace) == read["trace"]
