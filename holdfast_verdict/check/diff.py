"""What a change of a policy newly allows, newly denies and newly asks consent for, each with a request that both engines confirm."""

from __future__ import annotations

from typing import Final, Literal

from holdfast_verdict.check.encode import watch_key
from holdfast_verdict.check.finding import Finding, Kind, Place, Report
from holdfast_verdict.check.formulas import Formula, conj, neg
from holdfast_verdict.check.questions import Questions, Subject, with_kinds
from holdfast_verdict.check.request import Request
from holdfast_verdict.check.ruling import Ruling
from holdfast_verdict.check.search import Found, Impossible, Undecided
from holdfast_verdict.policy import Policy, Rule

Side = Literal["allow", "needs_approval", "deny"]

EXAMPLES_MAX: Final = 3
"""Examples of one kind of change for one role and action: each is permitted, or denied, by another rule."""
_CHANGES: Final[tuple[tuple[Side, Side, Kind, str], ...]] = (
    ("deny", "allow", "newly-allowed", "was denied and is allowed now"),
    ("needs_approval", "allow", "newly-allowed", "needed consent and is allowed without it now"),
    ("deny", "needs_approval", "newly-gated", "was denied and is possible with consent now"),
    ("allow", "needs_approval", "newly-gated", "was allowed and needs consent now"),
    ("allow", "deny", "newly-denied", "was allowed and is denied now"),
    ("needs_approval", "deny", "newly-denied", "was possible with consent and is denied now"),
)


def diff_policies(before: Policy, after: Policy, catalogue: object = None) -> Report:
    """Compares two policies by what they decide.

    Args:
        before: The policy as it is.
        after: The policy as it would be.
        catalogue: The actions there are; without, those that either policy names, with any arguments.
    """
    questions = Questions((before, after), with_kinds(catalogue))
    findings: list[Finding] = []
    undecided: list[str] = []
    for action in questions.actions():
        for role in dict.fromkeys([*before.roles, *after.roles]):
            if not _says_the_same(questions, role, action):
                _compare(questions, questions.subject(action), role, findings, undecided)
    return Report(tuple(findings), tuple(undecided), questions.asked)


def _says_the_same(questions: Questions, role: str, action: str) -> bool:
    """Says whether both policies have the same rules for a role and action, and so need no question."""
    said: list[object] = []
    for policy in questions.policies:
        if role not in policy.roles:
            said.append(None)
            continue
        subject = questions.subject(action)
        ruling = subject.rulings[questions.policies.index(policy)]
        keys = {watch.id: watch_key(watch) for watch in policy.watches}
        said.append([_content(rule, keys) for rule in ruling.rules(role)])
    return said[0] == said[1]


def _content(rule: Rule, watches: dict[str, object]) -> object:
    """Returns what a rule says, whatever it and its watches are called."""
    return (rule.effect, _renamed(rule.when, watches), rule.gate, rule.limit)


def _renamed(node: object, watches: dict[str, object]) -> object:
    if not isinstance(node, tuple):
        return node
    if node and node[0] in ("happened", "count<=", "sum<="):
        return (node[0], watches[str(node[1])], *(_renamed(each, watches) for each in node[2:]))
    return tuple(_renamed(each, watches) for each in node)


def _compare(questions: Questions, subject: Subject, role: str, findings: list[Finding], undecided: list[str]) -> None:
    old, new = subject.rulings
    asked = old.questions(_rules(old, role)) | new.questions(_rules(new, role))
    for was, is_now, kind, words in _CHANGES:
        goals: dict[str, Formula] = {
            "role": conj(old.as_role(role)),
            "before": old.outcome(role).of(was),
            "after": new.outcome(role).of(is_now),
        }
        for _ in range(EXAMPLES_MAX):

            def confirmed(request: Request, was: Side = was, is_now: Side = is_now) -> bool:
                return [questions.verdict(policy, request).verdict for policy in questions.policies] == [was, is_now]

            outcome = questions.find(subject, goals, asked, confirmed)
            if isinstance(outcome, Impossible):
                break
            if isinstance(outcome, Undecided) and outcome.request is None:
                undecided.append(f"whether some {subject.action} of role {role} {words}: {outcome.why}")
                break
            request = outcome.request
            assert request is not None  # just seen
            finding = _finding(questions, subject, role, kind, words, outcome)
            findings.append(finding)
            decided = _deciding(subject, role, finding)
            if decided is None or isinstance(outcome, Undecided):
                break
            goals[f"not by {decided[1].id}"] = neg(decided[0].fires(decided[1]))


def _rules(ruling: Ruling, role: str) -> tuple[Rule, ...]:
    return ruling.rules(role) if ruling.knows(role) else ()


def _finding(
    questions: Questions, subject: Subject, role: str, kind: Kind, words: str, outcome: Found | Undecided
) -> Finding:
    assert outcome.request is not None  # the caller has looked
    example = questions.example(outcome.request)
    by = example.rules[1] or example.rules[0]
    policy = questions.policies[1] if example.rules[1] else questions.policies[0]
    return Finding(
        kind,
        f"some {subject.action} of role {role} {words}",
        "confirmed" if isinstance(outcome, Found) else "unconfirmed",
        Place(by, policy.lines.get(by, 0)) if by else None,
        role,
        subject.action,
        example=example,
    )


def _deciding(subject: Subject, role: str, finding: Finding) -> tuple[Ruling, Rule] | None:
    """Returns the rule by which an example came to its end, so that the next one comes there by another."""
    assert finding.example is not None  # differences have examples
    for ruling, rule_id in zip(reversed(subject.rulings), reversed(finding.example.rules), strict=True):
        rule = next((each for each in _rules(ruling, role) if each.id == rule_id), None)
        if rule is not None:
            return ruling, rule
    return None
