"""`holdfast policy …` on files: what is found, what is said, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

pytestmark = pytest.mark.usefixtures("patient_solver")

BILLING = """\
role billing-agent {
  permit notify.customer
  permit payment.refund where args.amount <= usd(500)
  limit payment.refund sum(args.amount) <= usd(2000) per 24h per tenant
}
invariant notify-first:
  payment.refund requires notify.customer succeeded within 1h with same args.invoice
gate big-refund:
  payment.refund where args.amount > usd(100)
  needs 1 of role("finance-human"), expires 30m, not requester
"""
ACTIONS = {
    "notify.customer": {
        "parameters": {"type": "object", "properties": {"invoice": {"type": "string"}}, "required": ["invoice"]}
    },
    "payment.refund": {
        "parameters": {
            "type": "object",
            "properties": {"invoice": {"type": "string"}, "amount": {"type": "number", "minimum": 0}},
            "required": ["invoice", "amount"],
        }
    },
}
TO = {"type": "object", "properties": {"to": {"type": "string"}}}
CASES = """\
[defaults]
role = "billing-agent"

[[case]]
name = "who was not told is not refunded"
[[case.step]]
action = "payment.refund"
args = { amount = 50, invoice = "in-1" }
expect = "deny"
code = "policy.invariant"
rule = "notify-first"
[[case.step]]
action = "notify.customer"
args = { invoice = "in-1" }
[[case.step]]
after = "20m"
action = "payment.refund"
args = { amount = 50.25, invoice = "in-1" }
[[case.step]]
after = "2h"
action = "payment.refund"
args = { amount = 50, invoice = "in-1" }
expect = "deny"

[[case]]
name = "a big refund needs a word of finance"
action = "payment.refund"
args = { amount = 200, invoice = "in-1" }
history = [{ action = "notify.customer", args = { invoice = "in-1" }, ago = "30m" }]
expect = "needs_approval"
needs = ["finance-human"]

[[case]]
name = "with it, it is paid"
action = "payment.refund"
args = { amount = 200, invoice = "in-1" }
history = [{ action = "notify.customer", args = { invoice = "in-1" }, ago = "30m" }]
approvals = [{ role = "finance-human", user = "bob" }]
expect = "allow"

[[case]]
name = "arguments that two readers would read differently are refused"
action = "payment.refund"
raw = '{"amount": 5, "amount": 500, "invoice": "in-1"}'
expect = "deny"
code = "action.malformed"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, its catalogue and its cases, in which the commands run."""
    (tmp_path / "billing.policy").write_text(BILLING, encoding="utf-8")
    (tmp_path / "billing.actions.json").write_text(json.dumps(ACTIONS), encoding="utf-8")
    (tmp_path / "billing.cases.toml").write_text(CASES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def policy(*args: str, text: str | None = None) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["policy", *args], env=environment, input=text)


def answer(*args: str, text: str | None = None) -> Any:
    return json.loads(policy(*args, "--json", text=text).stdout)


def test_a_sound_policy_has_no_findings(folder: Path) -> None:
    done = policy("check", "billing.policy")
    assert done.exit_code == 0, done.output
    assert done.stdout == "billing.policy: nothing found in 5 rules, with the actions of billing.actions.json\n"
    assert answer("check", ".")["ok"] is True


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("permit payment.refund where args.amount > usd(5) and args.amount < usd(3)", "rule-never-fires", "never fires"),
        ("permit payment.refund where args.amount < usd(0)", "rule-never-fires", "never fires"),
        ("forbid notify.customer", "permit-shadowed", "permits nothing"),
        ("limit payment.refund count <= 0 per run", "limit-lets-nothing-through", "a ceiling of 0 calls"),
        ("limit payment.refund count <= 9 per run\n  limit payment.refund count <= 3 per run", "limit-never-reached", "reached"),
    ],
)  # fmt: skip
def test_what_can_never_be_is_found_with_its_line(folder: Path, line: str, kind: str, said: str) -> None:
    (folder / "billing.policy").write_text(BILLING.replace("\n}\n", f"\n  {line}\n}}\n", 1), encoding="utf-8")
    done = policy("check", "billing.policy")
    assert done.exit_code == 1
    assert f"{kind}: " in done.stdout
    assert said in done.stdout
    found = {each["kind"]: each for each in answer("check", "billing.policy")["policies"][0]["findings"]}
    assert found[kind]["standing"] == "proved"
    assert found[kind]["line"] in (2, 5)


def test_a_step_that_nobody_may_take_is_found_with_a_request_that_is_always_denied(folder: Path) -> None:
    (folder / "billing.policy").write_text(BILLING.replace("  permit notify.customer\n", ""), encoding="utf-8")
    [finding] = answer("check", "billing.policy")["policies"][0]["findings"]
    assert finding["kind"] == "prerequisite-never-permitted"
    assert finding["example"]["decided"] == [{"verdict": "deny", "code": "policy.invariant", "rule_id": "notify-first"}]
    assert finding["example"]["action"] == "payment.refund"


def test_a_change_lists_what_it_newly_allows_and_denies(folder: Path) -> None:
    changed = BILLING.replace("usd(500)", "usd(800)").replace("usd(100)", "usd(50)").replace("usd(2000)", "usd(700)")
    (folder / "new.policy").write_text(changed, encoding="utf-8")
    done = policy("diff", "billing.policy", "new.policy", "--actions", "billing.actions.json")
    assert done.exit_code == 1
    found = {
        tuple(one["verdict"] for one in each["example"]["decided"]): each["example"]["args"]["amount"]
        for each in answer("diff", "billing.policy", "new.policy", "--actions", "billing.actions.json")["findings"]
    }
    assert set(found) == {("allow", "needs_approval"), ("deny", "needs_approval")}
    assert 50 < found["allow", "needs_approval"] <= 100
    assert 500 < found["deny", "needs_approval"] <= 700
    same = policy("diff", "billing.policy", "billing.policy")
    assert (same.exit_code, same.stdout) == (0, "no difference: both decide everything alike\n")


def test_cases_are_played(folder: Path) -> None:
    done = policy("test", "billing.policy")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "4 cases, all as expected"
    assert [case["passed"] for case in answer("test", ".")["policies"][0]["cases"]] == [True] * 4


def test_a_case_that_comes_out_otherwise_is_shown_with_the_trace(folder: Path) -> None:
    (folder / "billing.policy").write_text(BILLING.replace("within 1h", "within 10m"), encoding="utf-8")
    done = policy("test", "billing.policy")
    assert done.exit_code == 1
    assert "FAILED  who was not told is not refunded" in done.stdout
    assert "step 3, payment.refund" in done.stdout
    assert "expected allow, but it is deny" in done.stdout
    assert "forbid notify-first matched" in done.stdout
    assert done.stdout.splitlines()[-1] == "4 cases, 3 failed"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('name = "x"\nacton = "a"', "there is no 'acton' here; did you mean action?"),
        ('name = "x"\naction = "a"', "expect is one of allow, deny, needs_approval, not None"),
        ('name = "x"\naction = "a"\nexpect = "yes"', "not 'yes'"),
        ('name = "x"\naction = "a"\nexpect = "deny"\nafter = "1 hour"', 'such as "30m"'),
        ('name = "x"\naction = "a"\nexpect = "deny"\nargs = 3', "is a table"),
        ('name = "x"\naction = "a"\nexpect = "deny"\nhistory = [{ action = "b", evnt = "failed" }]', "did you mean event?"),
        ("", "name is missing"),
    ],
)  # fmt: skip
def test_a_case_file_that_is_wrong_is_refused_by_its_place(folder: Path, wrong: str, said: str) -> None:
    (folder / "billing.cases.toml").write_text(f"[[case]]\n{wrong}\n", encoding="utf-8")
    done = policy("test", "billing.policy")
    assert done.exit_code == 2
    assert said in done.stderr
    assert "billing.cases.toml" in done.stderr


@pytest.mark.parametrize("command", ["check", "test", "explain", "simulate", "fmt", "diff"])
def test_what_cannot_be_used_ends_with_2(folder: Path, command: str) -> None:
    more = {"explain": ["{}"], "simulate": ["x.jsonl"], "diff": ["billing.policy"]}.get(command, [])
    missing = policy(command, "nothing.policy", *more)
    assert missing.exit_code == 2
    assert "nothing." in missing.stderr
    (folder / "broken.policy").write_text("role x {\n  permt a\n}\n", encoding="utf-8")
    (folder / "broken.cases.toml").write_text('[[case]]\nname="x"\naction="a"\nexpect="deny"\n', encoding="utf-8")
    broken = policy(command, "broken.policy", *more)
    assert broken.exit_code == 2
    assert "broken.policy:2:3" in broken.stderr
    assert "permit" in broken.stderr
    [problem] = answer(command, "broken.policy", *more)["problems"]
    assert (problem["line"], problem["column"]) == (2, 3)


def test_an_explanation_shows_the_condition_that_failed_with_its_values(folder: Path) -> None:
    request = {"action": "payment.refund", "args": {"amount": 700, "invoice": "in-1"}}
    done = policy("explain", "billing.policy", json.dumps(request))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("deny  policy.invariant")
    assert "permit billing-agent/payment.refund-1 (line 3) does not fire" in done.stdout
    assert "false    args.amount <= usd(500)   [args.amount = 700]" in done.stdout
    (folder / "request.json").write_text(
        json.dumps({**request, "args": {"amount": 70, "invoice": "in-1"}}), encoding="utf-8"
    )
    explained = answer("explain", "billing.policy", "request.json")
    assert explained["rule_id"] == "notify-first"
    assert "big-refund" in explained["nearly"]
    unknown = policy("explain", "billing.policy", '{"action": "payment.refunds"}')
    assert "action.unknown" in unknown.stdout


def test_a_role_has_to_be_said_where_there_are_several(folder: Path) -> None:
    (folder / "two.policy").write_text("role a {\n  permit x\n}\nrole b {\n  permit y\n}\n", encoding="utf-8")
    done = policy("explain", "two.policy", '{"action": "x"}')
    assert done.exit_code == 2
    assert "--role with one of a, b" in done.stderr
    assert policy("explain", "two.policy", '{"action": "x"}', "--role", "a").stdout.startswith("allow")


def test_a_sequence_is_simulated(folder: Path) -> None:
    lines = [
        {"role": "billing-agent", "at": "2026-03-02T10:00:00Z", "user_says": "refund invoice in-1"},
        {"action": "payment.refund", "args": {"amount": 50, "invoice": "in-1"}},
        {"action": "notify.customer", "args": {"invoice": "in-1"}, "outcome": "failed"},
        {"action": "payment.refund", "args": {"amount": 50, "invoice": "in-1"}},
        {"action": "notify.customer", "args": {"invoice": "in-1"}},
        {"action": "payment.refund", "args": {"amount": 50, "invoice": "in-1"}, "after": "5m", "expect": "allow"},
    ]
    text = "\n".join(map(json.dumps, lines))
    done = policy("simulate", "billing.policy", "-", text=text)
    assert done.exit_code == 0, done.output
    verdicts = [line.split()[4] for line in done.stdout.splitlines()[1:6]]
    assert verdicts == ["deny", "allow", "deny", "allow", "allow"]
    printed = policy("simulate", "billing.policy", "-", "--json", text=text).stdout.splitlines()
    assert json.loads(printed[-1])["at"] == "2026-03-02T10:05:00+00:00"
    wrong = policy("simulate", "billing.policy", "-", text=text.replace('"allow"', '"deny"'))
    assert wrong.exit_code == 1
    assert "line 6: expected deny, but it is allow" in wrong.stdout
    broken = policy("simulate", "billing.policy", "-", text=text + "\n{")
    assert broken.exit_code == 2
    assert "-:7 is not JSON" in broken.stderr


def test_policies_are_laid_out(folder: Path) -> None:
    (folder / "messy.policy").write_text("role a{ permit   x # why\n}", encoding="utf-8")
    would = policy("fmt", "--check", "messy.policy")
    assert would.exit_code == 1
    assert would.stdout == "messy.policy would be laid out anew\n"
    assert policy("fmt", "messy.policy").stdout == "messy.policy was laid out anew\n"
    again = policy("fmt", "--check", "messy.policy")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "# why" in (folder / "messy.policy").read_text(encoding="utf-8")
    assert policy("fmt", "-", text="role a{ permit x }").stdout.startswith("role a {\n")


@pytest.mark.parametrize(
    "catalogue",
    [
        {"tools": [{"name": "send", "inputSchema": TO}]},
        [{"type": "function", "function": {"name": "send", "parameters": TO}}],
        [{"name": "send", "input_schema": TO}],
    ],
)  # fmt: skip
def test_catalogues_of_others_are_taken(folder: Path, catalogue: object) -> None:
    (folder / "tools.json").write_text(json.dumps(catalogue), encoding="utf-8")
    (folder / "a.policy").write_text('role a {\n  permit send where args.to == "x"\n}\n', encoding="utf-8")
    assert policy("check", "a.policy", "--actions", "tools.json").exit_code == 0
    (folder / "b.policy").write_text('role a {\n  permit send where args.too == "x"\n}\n', encoding="utf-8")
    done = policy("check", "b.policy", "--actions", "tools.json")
    assert done.exit_code == 2
    assert "args.too" in done.stderr
    (folder / "tools.json").write_text('{"tools": [{"title": "no name"}]}', encoding="utf-8")
    assert policy("check", "a.policy", "--actions", "tools.json").exit_code == 2


# A table of rules, said as a text -------------------------------------------------------------------------------------

TABLE: list[dict[str, Any]] = [
    {"rule_id": "think", "effect": "permit", "kind": "llm.call"},
    {
        "rule_id": "inside",
        "effect": "forbid",
        "kind": "tool.call",
        "tool": "mail.send",
        "conditions": [{"path": "args.to", "operator": "any_outside_domains", "value": ["acme.com"]}],
        "code": "mail.outside",
        "message": "mail stays inside",
    },
    {"rule_id": "ask", "effect": "gate", "kind": "tool.call", "tool": "*", "expires_s": 60},
]


def test_a_table_is_said_as_a_text_from_a_file_and_from_a_request(tmp_path: Path) -> None:
    sent = tmp_path / "desk.json"
    for document in (TABLE, {"rules": TABLE}, {"rules": TABLE, "max_tokens_default": None}):
        sent.write_text(json.dumps(document), encoding="utf-8")
        done = policy("translate", str(sent))
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("role desk {")
        for line in ('  permit llm.call as "think"', '    code "mail.outside"', '    because "mail stays inside"'):
            assert line in done.stdout.splitlines(), done.stdout
    answer = json.loads(policy("translate", str(sent), "--role", "other", "--json").stdout)
    assert (answer["ok"], answer["role"], answer["cases"], answer["written"]) == (True, "other", "", [])
    assert policy("fmt", "-", text=answer["policy"]).exit_code == 0, "it is a policy"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "Expecting"),
        ('{"policy": ""}', "rules"),
        (json.dumps([{**TABLE[0], "rule_id": "UPPER"}]), "rule_id"),
        (json.dumps([{**TABLE[0], "tool": "mail.send"}]), "names no tool"),
        (json.dumps([{**TABLE[2], "tool": ""}]), "names a tool"),
        (json.dumps([{**TABLE[0], "conditions": [{"path": "os.environ", "operator": "=="}]}]), "path"),
        (
            json.dumps([{**TABLE[0], "conditions": [{"path": "args.a", "operator": "<=", "value": "5"}]}]),
            "whole numbers",
        ),
        (json.dumps([TABLE[0], TABLE[0]]), "two rules are called 'think'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, document: str, said: str) -> None:
    file = tmp_path / "desk.json"
    file.write_text(document, encoding="utf-8")
    done = policy("translate", str(file), "--write")
    assert done.exit_code == 2
    assert said in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [file]
