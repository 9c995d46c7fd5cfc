"""`bench policy`: what a decision costs, against Cedar in the same run, and what it must not grow with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.policy import cases, cedar, server
from bench.policy.rounds import Call, fastest_us, percentile, sampled_us
from bench.report import Figure, Report
from holdfast_verdict import Facts, Policy, Sources, decide
from holdfast_verdict.check.checking import check_policy

EVENTS: Final = 200
ROUNDS, ROUNDS_QUICK = 200, 40
_CHECKS, _CHECKS_QUICK = 2, 1


def _deciding(policy: Policy, facts: Facts) -> list[Call]:
    return [_decision(policy, action, facts) for action in cases.actions()]


def _decision(policy: Policy, action: object, facts: Facts) -> Callable[[], object]:
    return lambda: decide(policy, action, facts)


def _all_allow(report: Report, what: str, calls: list[Call]) -> None:
    for call in calls:
        verdict = call()
        if not verdict.allowed:  # type: ignore[attr-defined]  # it is a verdict
            report.wrong.append(f"{what}: {verdict}")


def _decisions(report: Report, rounds: int) -> None:
    policy = cases.compiled(100)
    calls = _deciding(policy, cases.facts(policy, EVENTS))
    _all_allow(report, "100 rules", calls)
    samples = sampled_us(calls, rounds)
    report.figures["decision_p50_us"] = Figure(percentile(samples, 0.5), "µs", ("<=", 20.0))
    report.figures["decision_p99_us"] = Figure(percentile(samples, 0.99), "µs")
    report.notes.append(
        f"A decision: {len(policy.rules)} rules, {EVENTS} events of history, {len(calls)} different actions that are allowed, with "
        "history, labels, origins and estimate given. Single calls, timed one by one in the quietest quarter of the rounds."
    )


def _scaling(report: Report, rounds: int) -> None:
    few, many = cases.compiled(100), cases.compiled(1000)
    sides = [_deciding(policy, cases.facts(policy, EVENTS)) for policy in (few, many)]
    _all_allow(report, "1000 rules", sides[1])
    small, large = fastest_us(sides, rounds)
    report.figures["rules_1000_over_100"] = Figure(large / small, "×", ("<=", 1.5))
    sides = [_deciding(few, cases.facts(few, events)) for events in (100, 100_000)]
    _all_allow(report, "10^5 events", sides[1])
    short, long = fastest_us(sides, rounds)
    report.figures["history_1e5_over_1e2"] = Figure(long / short, "×", ("<=", 1.2))

    report.notes.append(
        f"{len(many.rules)} rules over {len(few.rules)}: as many more roles. Sides in turn, the fastest round of each call."
    )


def _against_cedar(report: Report, rounds: int) -> None:
    pairs = cedar.pairs()
    for number, (ours, theirs, allowed) in enumerate(pairs):
        if not ours() == theirs() == allowed:
            report.wrong.append(f"request {number}: we say {ours()}, Cedar {theirs()}, meant was {allowed}")
    mine, cedars = fastest_us([[ours for ours, _, _ in pairs], [theirs for _, theirs, _ in pairs]], rounds)
    report.figures["ours_50_rules_us"] = Figure(mine, "µs")
    report.figures["cedar_50_policies_us"] = Figure(cedars, "µs")
    report.figures["cedar_ratio"] = Figure(cedars / mine, "×", (">=", 10.0))
    report.notes.append(
        "Cedar through cedarpy, with a PolicySet and Entities parsed before; both sides say the same of every request."
    )


def _provenance(report: Report, rounds: int) -> None:
    sources = Sources()
    sources.user(
        "Please refund 50 dollars for in-7 and tell bob@acme.com; the order is at https://www.acme.com/orders/7."
    )
    for number in range(20):
        output = {
            "subject": f"Order {number}",
            "from": f"customer{number}@acme.com",
            "body": f"Where is order {number}? " * 40,
        }
        sources.tool("mail.read", output, by_field={"body": ["untrusted"]})

    def look_up(arguments: object) -> Call:
        def call() -> object:
            sources.model("")  # what was looked up before is forgotten when something is said
            return sources.origins(arguments)

        return call

    samples = sampled_us([look_up(action.args) for action in cases.actions()], rounds // 4)
    report.figures["provenance_p50_us"] = Figure(percentile(samples, 0.5), "µs")
    report.notes.append(
        "Provenance apart: the origins of all arguments of an action, 20 outputs of 1 kB read before, nothing remembered."
    )


def _checks(report: Report, times: int) -> None:
    taken = {}
    for rules in (100, 200):
        policy = cases.compiled(rules)
        fastest = float("inf")
        for _ in range(times):
            started = time.perf_counter()
            found = check_policy(policy, cases.CATALOGUE)
            fastest = min(fastest, time.perf_counter() - started)
        taken[rules] = fastest / len(policy.rules) * rules
        report.notes.append(f"check of {len(policy.rules)} rules: {len(found.findings)} findings")
    report.figures["check_seconds_100_rules"] = Figure(taken[100], "s")
    report.figures["check_scaling_200_over_100"] = Figure(taken[200] / taken[100], "×", ("<=", 2.5))


async def measure(*, quick: bool) -> Report:
    """Measures decisions, their growth, Cedar, provenance, checks and the server's own reading, one after the other."""
    rounds = ROUNDS_QUICK if quick else ROUNDS
    report = Report("policy")
    _decisions(report, rounds)
    _provenance(report, rounds)
    _against_cedar(report, rounds)
    _scaling(report, rounds)
    _checks(report, _CHECKS_QUICK if quick else _CHECKS)
    await server.measure(report, quick=quick)
    return report
