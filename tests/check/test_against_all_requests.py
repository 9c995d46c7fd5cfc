"""Findings on random small policies, compared with every request that there is in a finite world."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from holdfast_verdict.check.checking import check_policy
from holdfast_verdict.check.diff import diff_policies
from holdfast_verdict.check.finding import Report
from holdfast_verdict.policy import Policy

from .policies import CACHED, CATALOGUE, policies, requests

pytestmark = pytest.mark.usefixtures("patient_solver")

_EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def _kinds(report: Report, kind: str) -> set[str]:
    return {each.place.rule_id for each in report.findings if each.kind == kind and each.place is not None}


def _sane(report: Report) -> None:
    assert not report.undecided
    assert not [each for each in report.findings if each.standing == "unconfirmed"]


@_EXAMPLES
@given(policies())
def test_a_rule_is_said_to_never_fire_exactly_if_no_request_fires_it(policy: Policy) -> None:
    true: set[str] = set()
    fired: set[str] = set()
    for rule in policy.rules:
        for role in policy.roles:
            if rule.role not in ("*", role, *policy.roles[role]):
                continue
            for request in requests(policy, role):
                answer = request.answer(policy, CACHED, rule.id)
                if answer is True:
                    true.add(rule.id)
                if answer is True or (answer is None and rule.effect != "permit"):
                    fired.add(rule.id)
    report = check_policy(policy, CATALOGUE)
    _sane(report)
    everything = {rule.id for rule in policy.rules}
    assert _kinds(report, "rule-never-fires") == everything - fired
    assert _kinds(report, "rule-fires-only-in-doubt") == fired - true


@_EXAMPLES
@given(policies())
def test_permits_and_gates_are_said_to_do_nothing_exactly_if_no_request_shows_otherwise(policy: Policy) -> None:
    useful: set[str] = set()
    for role in policy.roles:
        permits = [
            rule for rule in policy.rules if rule.effect == "permit" and rule.role in (role, *policy.roles[role])
        ]
        for request in requests(policy, role):
            verdict = request.verdict(policy, CACHED)
            if verdict.verdict == "deny":
                continue
            useful |= {ask.rule_id for ask in verdict.gates}
            missing = [rule for rule in permits if rule.id not in useful]
            useful |= {rule.id for rule in missing if request.answer(policy, CACHED, rule.id) is True}
    report = check_policy(policy, CATALOGUE)
    _sane(report)
    never = _kinds(report, "rule-never-fires")
    idle = {rule.id for rule in policy.rules if rule.effect in ("permit", "gate")} - useful
    assert _kinds(report, "permit-shadowed") | _kinds(report, "gate-never-asks") == idle - never


@_EXAMPLES
@given(policies(), policies())
def test_a_difference_is_listed_exactly_if_some_request_is_decided_differently(one: Policy, other: Policy) -> None:
    expected = set()
    for role in one.roles:
        merged = Policy(one.roles, (*one.rules, *other.rules), (), one.watches, one.zones or other.zones)
        for request in requests(merged, role):
            before, after = (request.verdict(each, CACHED).verdict for each in (one, other))
            if before != after:
                expected.add((role, before, after))
    report = diff_policies(one, other, CATALOGUE)
    _sane(report)
    listed = {
        (each.role, *each.example.verdicts)
        for each in report.findings
        if each.example is not None and each.standing == "confirmed"
    }
    assert listed == expected


@_EXAMPLES
@given(policies())
def test_without_a_catalogue_nothing_is_said_to_be_impossible_that_is_not(policy: Policy) -> None:
    report = check_policy(policy)
    assert not [each for each in report.findings if each.standing == "unconfirmed"]
    never = _kinds(report, "rule-never-fires") | _kinds(report, "permit-shadowed")
    for rule in policy.rules:
        if rule.id in never and rule.effect == "permit":
            for role in policy.roles:
                verdicts = (request.verdict(policy, CACHED) for request in requests(policy, role))
                assert all(verdict.rule_id != rule.id for verdict in verdicts if verdict.verdict == "allow")
