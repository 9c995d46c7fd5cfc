"""What the server holds an action against: the run's policy and, where it can do less than a policy asks, a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest

from holdfast.actions.code_run import tier_refused
from holdfast.actions.form import Action
from holdfast.actions.run_facts import RunFacts, RunPolicy
from holdfast.ledger.types import FactVersions
from holdfast.policies.evaluation import Evaluation, Refusal, evaluate
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.toolset import BUILTIN
from holdfast_verdict import Facts, compile_policy, decide
from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.canonical import JsonValue, canonical_bytes, digest
from holdfast_verdict.engine.facts import Estimate
from holdfast_verdict.record import policy_part_a
from holdfast_verdict.verify.policy_engine import CompiledPolicy

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)  # a Monday, eleven o'clock in Berlin


def run(source: str, user_roles: tuple[str, ...] | None = None) -> RunFacts:
    """Returns a run that is decided by a policy."""
    policy = compile_policy(source)
    return RunFacts(
        run_id=UUID(int=1),
        tenant_id=UUID(int=2),
        tenant="acme",
        project_id=UUID(int=3),
        project="desk",
        user_id=UUID(int=4),
        user="ann",
        agent_name="helper",
        role="clerk",
        user_roles=user_roles,
        status="running",
        ended=False,
        deadline_at=NOW,
        now=NOW,
        versions=FactVersions(0, 1),
        timeline_seq=0,
        funded=False,
        inputs=1,
        agent=AgentDefinition.model_validate(
            {"instructions": "x", "model": {"name": "m", "wire": "openai"}, "role": "clerk"}
        ),
        tools=BUILTIN,
        policy=RunPolicy(policy, policy.policy_hash, UUID(int=5), None),
        is_alone=True,
    )


def call(
    tool: str,
    args: Mapping[str, JsonValue] | None = None,
    *,
    known: bool = True,
    malformed: str = "",
    external: bool = True,
) -> Action:
    """Returns a call of a tool."""
    value: dict[str, JsonValue] = {"kind": "tool.call", "tool": tool, "args": dict(args or {})}
    return Action(
        value,
        canonical_bytes(value),
        digest(value),
        "tool.call",
        tool,
        known,
        malformed,
        idempotent=False,
        external=external,
    )


def record_of(evaluation: Evaluation) -> dict[str, JsonValue]:
    """Returns the record's part A, read again."""
    refusal = evaluation.refusal
    part_a = policy_part_a(
        subject={},
        action=evaluation.action,
        policy_hash=evaluation.policy_hash,
        verdict=evaluation.verdict,
        refusal=None if refusal is None else {"code": refusal.code, "message": refusal.message},
        prices={},
    )
    read: dict[str, JsonValue] = orjson.loads(part_a)
    return read


THIRTEEN = [f'1 of role("r{n}")' for n in range(13)]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("role clerk { permit mail.send }", "policy.permitted"),
        ("role clerk { permit mail.send limit mail.send count <= 5 per run }", "policy.limit_unsupported"),
        ('role clerk { permit mail.send gate g: mail.send needs 2 of role("lead") }', "approval.required"),
        ('role clerk { permit mail.send gate g: mail.send needs 1 of agent("risk") }', "approval.required"),
        (
            'role clerk { permit mail.send gate g: mail.send needs 1 of role("a") gate h: mail.send needs 1 of role("b") }',
            "approval.required",
        ),
        (
            "role clerk { permit mail.send gate g: mail.send needs " + ", ".join(THIRTEEN) + " }",
            "policy.gate_unsupported",
        ),
        ("role clerk { permit mail.send } forbid external when run has secret", "facts.missing"),
        ("role clerk { permit mail.send } invariant i: mail.send requires note.read succeeded", "facts.missing"),
        ("role clerk { permit mail.send } at most 3 mail.send", "facts.missing"),
        ("role clerk { permit mail.send where args.to from user }", "facts.missing"),
        ('role clerk { permit mail.send where principal.roles contains "admin" }', "facts.missing"),
    ],
)
def test_what_cannot_be_held_or_is_not_known_is_denied(source: str, code: str) -> None:
    verdict = evaluate(run(source), call("mail.send", {"to": "x"})).verdict
    assert verdict.code == code
    assert verdict.allowed is (code == "policy.permitted")


def test_time_is_the_runs_and_a_zone_that_nobody_knows_permits_nothing() -> None:
    for zone, hours, allowed in (("Europe/Berlin", "11:00 and 12:00", True), ("UTC", "11:00 and 12:00", False)):
        source = f'role clerk {{ permit mail.send where time in "{zone}" between {hours} on mon }}'
        assert evaluate(run(source), call("mail.send")).verdict.allowed is allowed
    source = 'role clerk { permit mail.send where time in "Nowhere/Atlantis" between 00:00 and 24:00 }'
    assert evaluate(run(source), call("mail.send")).verdict.code == "facts.missing"


@pytest.mark.parametrize(
    ("roles", "verdict"), [(("agent", "trainee"), "deny"), (("agent",), "allow"), ((), "allow"), (None, "deny")]
)
def test_the_roles_of_who_started_the_run_count_and_unknown_ones_allow_nothing(
    roles: tuple[str, ...] | None, verdict: str
) -> None:
    source = 'role clerk { permit tools }\nforbid mail.send when principal.roles contains "trainee"'
    told = evaluate(run(source, roles), call("mail.send"))
    assert told.verdict.verdict == verdict
    assert evaluate(run(source, roles), call("b")).verdict.allowed, "only of mail it is asked"
    assert (roles is not None) is ('"roles":' in orjson.dumps(record_of(told)).decode())


def test_what_a_tool_says_of_its_boundary_counts() -> None:
    source = 'role clerk { permit tools } forbid external code "no.way_out"'
    assert evaluate(run(source), call("a", external=True)).verdict.code == "no.way_out"
    assert evaluate(run(source), call("a", external=False)).verdict.allowed


def test_what_is_unknown_or_malformed_is_denied_before_the_policy_is_asked() -> None:
    at = run("role clerk { permit tools }")
    for action, code in ((call("x", known=False), "action.unknown"), (call("x", malformed="no"), "action.malformed")):
        evaluation = evaluate(at, action)
        assert (evaluation.verdict.verdict, evaluation.verdict.code) == ("deny", code)
        assert record_of(evaluation)["refusal"] == {"code": code, "message": evaluation.verdict.message}


def test_a_refusal_goes_before_an_allow() -> None:
    at = run("role clerk { permit tools }")
    evaluation = evaluate(at, call("x"), refusal=Refusal("model.price_unknown", "nobody knows what it costs"))
    assert (evaluation.verdict.verdict, evaluation.verdict.code) == ("deny", "model.price_unknown")


@pytest.mark.parametrize("amount", [1, 200, 2_000])
def test_a_record_gives_the_same_verdict_again(amount: int) -> None:
    source = """role clerk {
      permit pay where args.amount <= 1_000 and principal.user == "ann" and time in "Europe/Berlin" between 08:00 and 20:00
      gate g: pay where args.amount > 100 or estimate.spend > usd(1) needs 1 of role("lead")
    }
    forbid external when args.amount == 3"""
    at = run(source)
    evaluation = evaluate(at, call("pay", {"amount": amount}, external=True), estimate=Estimate(5, 5))
    record = record_of(evaluation)
    assert record["engine"] == "policy/1"
    assert record["policy_hash"] == compile_policy(source).policy_hash.hex()
    boundary = record["boundary"]
    assert isinstance(boundary, dict)
    value = record["action"]
    assert isinstance(value, dict)
    action = CanonicalAction(
        "pay", "tool.call", value, canonical_bytes(value), digest(value), boundary["external"] is True
    )
    facts = record["facts"]
    assert isinstance(facts, dict)
    again = decide(at.policy.policy, action, Facts.from_json(facts))
    assert {"verdict": again.verdict, "code": again.code, "rule_id": again.rule_id} == record["evaluated"]
    assert again.to_json()["trace"] == record["trace"]


GATED = 'role clerk { permit tools gate g: mail.send needs 1 of role("lead") }'
LIMITED = "role clerk { permit mail.send limit mail.send count <= 5 per run }"
MANY_NEEDS = "role clerk { permit mail.send gate g: mail.send needs " + ", ".join(THIRTEEN) + " }"


@pytest.mark.parametrize(
    ("source", "waits", "code"),
    [
        (GATED, False, "approval.not_in_code"),
        (LIMITED, True, "policy.limit_unsupported"),
        (MANY_NEEDS, True, "policy.gate_unsupported"),
    ],
)
def test_the_verifier_knows_whatever_is_refused_beside_the_policy(source: str, waits: bool, code: str) -> None:
    at = run(source)
    evaluation = evaluate(at, call("mail.send"), waits=waits)
    assert (evaluation.verdict.verdict, evaluation.verdict.code) == ("deny", code)
    record = record_of(evaluation)
    again = CompiledPolicy(orjson.loads(canonical_bytes(at.policy.policy.to_json())), None, None).evaluate(record)
    assert {"verdict": again.verdict, "code": again.code, "rule_id": again.rule_id} == record["evaluated"]
    assert again.trace == record["trace"]


def test_a_tier_that_is_not_there_is_verified_as_a_deny_of_code_and_of_nothing_else() -> None:
    at = run("role clerk { permit code.exec permit mail.send }")
    value: dict[str, JsonValue] = {"kind": "code.exec", "args": {"code": "1", "tier": "kernel"}}
    form = canonical_bytes(value), digest(value)
    code = Action(value, *form, "code.exec", "code.exec", known=True, malformed="", idempotent=True, external=False)
    refused = tier_refused(code, ["process"])
    assert refused is not None
    assert tier_refused(code, ["process", "kernel"]) is None
    engine = CompiledPolicy(orjson.loads(orjson.dumps(at.policy.policy.to_json())), None, None)
    refusal = Refusal(refused.code, refused.message)
    evaluated = engine.evaluate(record_of(evaluate(at, code, refusal=refusal)))
    assert (evaluated.verdict, evaluated.code) == ("deny", "isolation.tier_unavailable")
    with pytest.raises(ValueError, match="is none that engine policy/1 has for such an action"):
        engine.evaluate(record_of(evaluate(at, call("mail.send"), refusal=refusal)))
