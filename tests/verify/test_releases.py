"""An action that relied on a release has the record of it, by somebody else and from before."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from holdfast.ids import new_id
from holdfast_verdict import Facts, compile_policy, decide
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.engine.facts import Release
from holdfast_verdict.record import part_b, policy_part_a
from holdfast_verdict.verify.across import Bundle
from holdfast_verdict.verify.chunks import Chunk
from holdfast_verdict.verify.packing import Packed
from holdfast_verdict.verify.policy_engine import CompiledPolicy
from holdfast_verdict.verify.records import Decided, RecordChecker
from holdfast_verdict.verify.releases import check_releases

RUN, ANN, OLGA = "run-1", "id-of-ann", "id-of-olga"
RELEASED = ("secret", "olga", ("dpo",))


def release(**changed: Any) -> Decided:  # Any: members of a record
    subject = {"user": "olga", "user_id": OLGA, "roles": ["dpo"]} | changed.pop("subject", {})
    facts = {"subject": subject, "run": RUN, "label": "secret", "reason": "public"} | changed.pop("facts", {})
    one = Decided("r", b"", "release", "allow", "label.released", 10, "", "", "", RUN, facts=facts)
    return one._replace(**changed)


def relied(**changed: Any) -> Decided:  # Any: as above
    one = Decided(
        "d", b"", "tool.call", "allow", "policy.permitted", 20, "h", "", "", RUN, user_id=ANN, released=(RELEASED,)
    )
    return one._replace(**changed)


def found(*decided: Decided, from_ms: int | None = None) -> list[str]:
    header = {"scope": {"run_id": None, "from_ms": from_ms, "to_ms": None}}
    bundle = Bundle(header, {}, list(decided), {}, {}, [], [], [], [], frozenset())
    return [one.wrong for one in check_releases(bundle)]


def test_a_release_that_was_given_holds() -> None:
    assert found(release(), relied()) == []
    assert found(relied(released=())) == []


@pytest.mark.parametrize(
    "other",
    [
        release(run_id="run-2", facts={"run": "run-2"}),
        release(facts={"run": "run-2"}),
        release(facts={"label": "personal"}),
        release(subject={"user": "otto"}),
        release(subject={"roles": ["owner"]}),
        release(verdict="deny"),
        release(kind="config"),
        release(facts={"subject": "olga"}),
    ],
)
def test_one_that_nobody_gave_is_found(other: Decided) -> None:
    [wrong] = found(other, relied())
    assert "no record has one" in wrong
    assert found(other, relied(), from_ms=5) == [], "it may have been made before the export begins"


def test_one_that_came_later_or_is_by_the_requester_is_found() -> None:
    assert "after it" in found(release(time_ms=21), relied())[0]
    assert "by the one whose run it is" in found(release(subject={"user_id": ANN}), relied())[0]
    assert found(release(time_ms=21), release(), relied()) == []


def test_what_an_allow_relied_on_is_read_of_its_record() -> None:
    source = 'role clerk { permit tools } forbid mail when run has secret unless released by role("dpo")'
    policy = compile_policy(source)
    value: dict[str, JsonValue] = {"kind": "tool.call", "tool": "mail", "args": {}}
    action = CanonicalAction("mail", "tool.call", value, canonical_bytes(value), digest(value), True, {"": ()})
    fact = Release("secret", "olga", ("dpo",))
    verdict = decide(policy, action, Facts(principal={"role": "clerk"}, labels={"secret"}, released=(fact,)))
    ids = {name: str(new_id()) for name in ("tenant_id", "project_id", "user_id", "run_id")}
    subject: dict[str, JsonValue] = {**ids, "step": 1, "try": 1, "agent": "a", "role": "clerk"}
    a = policy_part_a(
        subject=subject, action=action, policy_hash=policy.policy_hash, verdict=verdict, refusal=None, prices={}
    )
    decision_id, hold_id = new_id(), new_id()
    b = part_b(
        decision_id=decision_id, time_ms=20, verdict="allow", reason_codes=(verdict.code,), hold_id=hold_id, legs=[]
    )
    line = {
        "decision_id": str(decision_id),
        "kind": "tool.call",
        "run_id": ids["run_id"],
        "approval_id": None,
        "message": "",
    }
    compiled = CompiledPolicy(orjson.loads(canonical_bytes(policy.to_json())), None, None)
    checker = RecordChecker(ids["tenant_id"], {policy.policy_hash.hex(): compiled}, tells=False)
    decided = checker.check({**line, "part_a": a.decode(), "part_b": b.decode()}, 3)
    assert decided.released == (RELEASED,)
    sent = Packed.of(Chunk(decided=[decided])).chunk().decided
    assert sent == [decided], "also where another process has read it"
