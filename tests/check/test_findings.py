"""What a check finds in policies as people write them, and that it never claims what the engine does not confirm."""

from __future__ import annotations

import pytest

from holdfast_verdict import Catalogue, compile_policy
from holdfast_verdict.check import texts
from holdfast_verdict.check.checking import check_policy
from holdfast_verdict.check.diff import diff_policies
from holdfast_verdict.check.finding import Finding
from holdfast_verdict.check.questions import Questions
from holdfast_verdict.check.request import Request
from holdfast_verdict.check.shape import shape_of
from holdfast_verdict.engine.unknown import Truth
from holdfast_verdict.engine.verdict import Verdict
from holdfast_verdict.policy import Policy

pytestmark = pytest.mark.usefixtures("patient_solver")

_MAIL = {"type": "array", "items": {"type": "string", "format": "email"}}
CATALOGUE = Catalogue.of(
    {
        "mail": {
            "parameters": {
                "type": "object",
                "properties": {
                    "to": _MAIL,
                    "body": {"type": "string"},
                    "cc": {"anyOf": [_MAIL, {"type": "null"}], "default": None},
                },
                "required": ["to", "body"],
            }
        },
        "fetch": {
            "parameters": {
                "type": "object",
                "properties": {"url": {"type": "string", "format": "uri"}},
                "required": ["url"],
            },
            "yields": ["untrusted"],
        },
        "pay": {
            "parameters": {
                "type": "object",
                "properties": {
                    "amount": {"type": "number", "minimum": 0, "maximum": 1000},
                    "currency": {"enum": ["USD", "EUR"]},
                    "memo": {"type": "string", "maxLength": 20},
                },
                "required": ["amount", "currency"],
            }
        },
        "lookup": {"external": False},
    }
)


def findings(text: str) -> list[Finding]:
    report = check_policy(compile_policy(text, CATALOGUE), CATALOGUE)
    assert not report.undecided
    return list(report.findings)


def kinds(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, finding.place.rule_id if finding.place else finding.role) for finding in findings(text)]


@pytest.mark.parametrize(
    ("permit", "expected"),
    [
        ('mail where args.to all in domain("a.example") and args.to any in domain("b.example")', "rule-never-fires"),
        ('mail where args.to all in domain("a.example") and args.cc any in domain("b.example")', ""),
        ('fetch where args.url in host("*.a.example") and args.url in host("b.example")', "rule-never-fires"),
        ('fetch where args.url in host("*.a.example") and args.url starts with "http://"', ""),
        ('fetch where args.url in host("a.example") and args.url starts with "https://b."', "undecided or never"),
        ('mail where args.body starts with "ab" and args.body starts with "b"', "rule-never-fires"),
        ('mail where args.body starts with "ab" and args.body ends with "bc" and args.body.chars <= 3', ""),
        ('mail where args.body starts with "ab" and args.body ends with "cd" and args.body.chars <= 3', "rule-never-fires"),
        ("mail where args.body.bytes > 20000 and args.body.chars < 10000", ""),
        ("mail where args.body.bytes > 20000 and args.body.chars < 5000", "rule-never-fires"),
        ("pay where args.amount > usd(999.99)", ""),
        ("pay where args.amount > usd(1000)", "rule-never-fires"),
        ('pay where args.currency == "USD" and args.currency != "USD"', "rule-never-fires"),
        ('pay where args.currency != "USD" and args.currency != "EUR"', "rule-never-fires"),
        ("pay where args.memo.chars > 20", "rule-never-fires"),
        ("pay where args.memo == principal.tenant and args.memo is present", ""),
        ("mail where every args.to as one: (one == principal.user) and some args.to as one: (one != args.body)", ""),
    ],
)  # fmt: skip
def test_what_can_be_is_told_from_what_cannot(permit: str, expected: str) -> None:
    policy = compile_policy(f"role r {{\n  permit {permit}\n}}\n", CATALOGUE)
    report = check_policy(policy, CATALOGUE)
    found = [finding.kind for finding in report.findings if finding.place]
    if expected == "undecided or never":
        assert found == ["rule-never-fires"] or report.undecided
    else:
        assert (found, report.undecided) == ([expected] if expected else [], ())


def test_a_permit_that_forbids_swallow_is_found_with_them_and_a_denied_request() -> None:
    [finding] = findings("""
    role r {
      permit pay where args.amount <= usd(10)
      permit mail where args.to all in domain("a.example")
      forbid mail when args.to any in domain("*.b.example")
      forbid mail unless args.to all in domain("c.example") and args.cc is absent
    }
    """)
    assert (finding.kind, finding.standing, finding.action) == ("permit-shadowed", "proved", "mail")
    assert finding.place is not None
    assert finding.place.line == 4
    assert [other.line for other in finding.others] == [6]
    assert finding.example is not None
    assert finding.example.verdicts == ("deny",)


def test_gates_labels_and_roles_are_looked_at() -> None:
    assert kinds("role empty {}\nrole r { permit pay }\n") == [("role-permits-nothing", "empty")]
    assert kinds("""
    role r { permit pay where args.amount <= usd(10) }
    gate big: pay where args.amount > usd(10) needs 1 of role("boss"), expires 1h
    gate odd: mail needs 1 of role("boss"), expires 1h
    """) == [("gate-never-asks", "big"), ("gate-never-asks", "odd")]
    assert (
        kinds('role r { permit pay }\ngate word: pay where args.amount > usd(10) needs 1 of role("boss"), expires 1h')
        == []
    )


def test_an_action_that_one_role_inherits_and_never_may_is_found() -> None:
    [finding] = findings("""
    role base { permit pay where args.amount <= usd(10) }
    role strict extends base {
      permit lookup
      forbid pay
    }
    """)
    assert (finding.kind, finding.role, finding.action) == ("action-always-denied", "strict", "pay")


def test_a_step_that_comes_too_late_for_a_role_is_found_only_where_it_is_never_permitted() -> None:
    text = (
        "invariant first: pay requires lookup succeeded within 1h\nrole r { permit pay %s}\nrole s { permit lookup }\n"
    )
    assert kinds(text % "") == [("prerequisite-never-permitted", "first")]
    assert kinds((text % "").replace("within 1h", "within 1h per tenant")) == []
    assert kinds((text % "").replace("permit pay", "permit pay\n  permit lookup")) == []


def test_a_change_is_listed_by_rule_role_and_action() -> None:
    before = compile_policy('role r { permit mail where args.to all in domain("a.example") }', CATALOGUE)
    after = compile_policy(
        """
        role r { permit mail where args.to all in domain("a.example", "b.example") }
        role s { permit lookup }
        forbid mail when args.to from untrusted
        """,
        CATALOGUE,
    )
    found = [(each.kind, each.role, each.action) for each in diff_policies(before, after, CATALOGUE).findings]
    assert found == [("newly-allowed", "r", "mail"), ("newly-denied", "r", "mail"), ("newly-allowed", "s", "lookup")]
    denied = diff_policies(before, after, CATALOGUE).findings[1]
    assert denied.example is not None
    assert "untrusted" in str(denied.example.request.to_json()["origins"])


def test_what_the_engine_does_not_confirm_is_reported_as_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compile_policy("role r { permit pay where args.amount <= usd(10) }", CATALOGUE)
    after = compile_policy("role r { permit pay where args.amount <= usd(20) }", CATALOGUE)

    def wrong(_: Questions, policy: Policy, request: Request) -> Verdict:
        return Verdict("deny", "policy.forbidden", "")

    monkeypatch.setattr(Questions, "verdict", wrong)
    report = diff_policies(before, after, CATALOGUE)
    assert [finding.standing for finding in report.findings] == ["unconfirmed"]
    assert report.findings[0].kind == "newly-allowed"
    checked = check_policy(before, CATALOGUE)
    assert {finding.standing for finding in checked.findings} == {"unconfirmed"}


@pytest.mark.parametrize(
    ("questions", "there_is_one"),
    [
        (((("starts", texts.HOLE, ("text", "a\\u{62}")), True),), True),
        (((("starts", texts.HOLE, ("text", "a\\u{62}")), True), (("starts", texts.HOLE, ("text", "ab")), True)), False),
        (((("in", texts.HOLE, (("glob", "aab*baa"),)), True), (("contains", texts.HOLE, ("text", "bb")), False)), True),
        (((("<", texts.HOLE, ("text", "b")), True), ((">", texts.HOLE, ("text", "a")), True)), True),
        (((("<", texts.HOLE, ("text", "a")), True), ((">", texts.HOLE, ("text", "b")), True)), False),
        (((("in", texts.HOLE, (("path", "/srv/a"),)), True), (("in", texts.HOLE, (("path", "/srv/b"),)), True)), False),
        (((("==", ("lower", texts.HOLE), ("text", "abc")), True), (("==", texts.HOLE, ("text", "abc")), False)), True),
        (((("in", texts.HOLE, (("cidr", "10.0.0.0/8"),)), True),), True),
    ],
)  # fmt: skip
def test_a_text_is_found_or_proved_not_to_be(
    questions: tuple[tuple[texts.Node, Truth], ...], there_is_one: bool
) -> None:
    wanted = texts.Wanted(questions, (shape_of({"type": "string"}),))
    words = texts.find(wanted)
    assert (words is not None) == there_is_one
    assert bool(texts.contradiction(wanted)) != there_is_one
    if words is not None:
        assert all(texts.answer_of(condition, words) is truth for condition, truth in questions)
