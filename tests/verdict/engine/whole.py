"""Verdicts as a whole, for every way in which a decision can end: `python -m tests.verdict.engine.whole` writes them down anew.

Records keep verdict, sentence, trace and the facts that were read, so each of them is part of what the engine promises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from holdfast_verdict import Catalogue, Verdict, compile_policy, decide, decide_call
from holdfast_verdict.canonical import JsonValue
from holdfast_verdict.engine.facts import Consent, Estimate, Facts, LocalTime, Release
from holdfast_verdict.engine.history import Event, History
from holdfast_verdict.policy import Policy

from .policies import AMOUNT, CLEAN_MODEL, USER, WEB, call, clerk, document, gate, limit, policy, rule
from .test_gates import ASKED, BOB, FINANCE, NOW, PAY, RISK, RISKS, approval

FILE: Final = Path(__file__).with_name("whole.json")
PLAIN: Final = policy(rule("permit"))
GATED: Final = policy(rule("permit"), rule("gate", name="g", gate=gate(FINANCE)))
SAID: Final = policy(
    rule("permit"),
    rule("gate", name="g", gate=gate(FINANCE), message="ask finance"),
    rule("gate", name="h", gate=gate((1, "agent", "risk")), message="ask risk"),
    rule("limit", name="l", limit=limit("count", 9, "calls")),
)
ANN: Final = Consent("ann", "user", ("finance",), 9_900)
UNNAMED: Final = {"tenant": "acme", "user": "ann", "agent": "a", "run": "r1"}
SMALL: Final = ["<", AMOUNT, ["int", 10]]
ODD: Final = ["==", AMOUNT, ["text", "5"]]
CLERK: Final[dict[str, JsonValue]] = {"tenant": "acme", "user": "ann", "agent": "a", "role": "clerk", "run": "r1"}
WEEKLY: Final = """
role clerk { permit pay where time in "Europe/Berlin" between 09:00 and 17:00 on mon..thu and date("Europe/Berlin") <= "2026-03-31" }
"""


class _Broken(Mapping[str, object]):
    """Facts about which nothing can be asked."""

    def __getitem__(self, name: str) -> object:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("broken")

    def __len__(self) -> int:
        return 1


def _of_form() -> Iterator[tuple[str, Verdict]]:
    yield "no rules", decide(policy(), call(), clerk())
    yield "an action without arguments", decide(PLAIN, {"kind": "tool.call", "tool": "pay"}, clerk())
    yield "an action without a canonical form", decide(PLAIN, {"kind": "llm.call", "args": {"x": 1.5}}, clerk())
    yield "an action that is none", decide(PLAIN, 7, clerk())
    yield "a policy that is none", decide({"v": 1}, call(), clerk())
    yield "a policy with an operator that is unknown", decide(document(rule("permit", when=["odd"])), call(), clerk())
    yield "facts with a member that is unknown", decide(PLAIN, call(), {"colour": 1})
    yield "a history of another type", decide(PLAIN, call(), clerk(history=7))
    yield "a history with an event that is none", decide(PLAIN, call(), clerk(history=[7]))
    yield "labels of another type", decide(_labelled(), call(), clerk(labels=7))
    catalogue = Catalogue.of({"pay": {"parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}}}})
    yield "a call", decide_call(PLAIN, catalogue, "pay", {"amount": 5}, clerk())
    yield "a call of an unknown tool", decide_call(PLAIN, catalogue, "fly", {}, clerk())
    yield "a call with an unknown argument", decide_call(PLAIN, catalogue, "pay", {"sum": 5}, clerk())
    yield "a call whose arguments cannot be read", decide_call(PLAIN, catalogue, "pay", _Broken(), clerk())


def _labelled() -> Policy:
    return compile_policy("role clerk { permit pay where not run has secret }\nlabel web.fetch yields secret")


def _of_rules() -> Iterator[tuple[str, Verdict]]:
    yield "a permit", decide(PLAIN, call(), clerk())
    yield "an unknown role", decide(PLAIN, call(), replace(clerk(), principal={**clerk().principal, "role": "king"}))
    yield "no role", decide(PLAIN, call(), replace(clerk(), principal=UNNAMED))
    yield "no permit", decide(PLAIN, call("fly"), clerk())
    yield "a permit that does not match", decide(policy(rule("permit", when=SMALL)), call(amount=50), clerk())
    two = policy(rule("permit", name="p", when=SMALL), rule("permit", name="q", when=ODD))
    yield "two permits that do not match", decide(two, call(amount=50), clerk())
    hidden = compile_policy('role clerk { permit pay where args.to from user or principal.roles any in ["x"] }')
    yield "a permit that lacks facts", decide(hidden, call(to="a"), clerk(labels=None))
    forbid = rule("forbid", name="f", when=SMALL)
    yield "a forbid", decide(policy(rule("permit"), forbid), call(amount=5), clerk())
    yield "a forbid that does not match", decide(policy(rule("permit"), forbid), call(amount=50), clerk())
    yield "a forbid that cannot be told", decide(policy(rule("permit"), forbid), call(), clerk())
    said = rule("forbid", name="f", when=SMALL, message="too small", code="policy.invariant")
    yield "a forbid with a sentence", decide(policy(rule("permit"), said), call(amount=5), clerk())
    yield "a forbid with a sentence that cannot be told", decide(policy(rule("permit"), said), call(), clerk())
    later = policy(rule("permit"), forbid, rule("forbid", name="sure"), rule("forbid", name="more"))
    yield "a forbid behind one that cannot be told", decide(later, call(), clerk())
    doubts = policy(rule("permit"), forbid, rule("forbid", name="e", when=SMALL))
    yield "two forbids that cannot be told", decide(doubts, call(), clerk())
    lacks = compile_policy("role clerk { permit pay }\nforbid pay where run has secret or args.to from untrusted")
    yield "a forbid that lacks facts", decide(lacks, call(to="a"), clerk(labels=None))
    yields = compile_policy(
        "role clerk { permit pay }\nlabel pay where args.amount > 5 yields secret\nlabel pay.id yields untrusted"
    )
    for amount in (1, 9):
        yield f"labels of the output, {amount}", decide(yields, call(amount=amount), clerk(labels=frozenset({"pii"})))
    yield "labels of the output that cannot be told", decide(yields, call(), clerk())


def _of_limits() -> Iterator[tuple[str, Verdict]]:
    count = policy(rule("permit"), rule("limit", name="l", limit=limit("count", 2, "calls")))
    yield "a limit that nobody has looked at", decide(count, call(), clerk())
    for used in (0, 1, 2, -5):
        yield f"a limit, used {used}", decide(count, call(), clerk(usage={"l run run=r1": used}))
    yield "a limit of which the use is not known", decide(count, call(), clerk(usage={}))
    unscoped = {name: value for name, value in clerk().principal.items() if name != "run"}
    yield "a limit of nobody, told", decide(count, call(), replace(clerk(usage={"l run run=": 0}), principal=unscoped))
    yield "a limit of nobody", decide(count, call(), replace(clerk(), principal=unscoped))
    of = limit("sum", 10, "units", of=AMOUNT)
    total = policy(rule("permit"), rule("limit", name="l", limit=of, message="enough for today"))
    for amount in (5, 11, -3):
        yield f"a sum of {amount}", decide(total, call(amount=amount), clerk())
    yield "a sum that is used up", decide(total, call(amount=5), clerk(usage={"l run run=r1": 6}))
    yield "a sum of a part", decide(total, call(amount={"$number": "4.5"}), clerk(usage={"l run run=r1": 5}))
    yield "a sum that cannot be told", decide(total, call(), clerk())
    spend = policy(rule("permit"), rule("limit", name="l", limit=limit("spend", 10, "nano_usd")))
    for nano in (None, 10, 11, -4):
        facts = clerk(usage={"l run run=r1": 0}, estimate=None if nano is None else Estimate(nano, 1))
        yield f"spend of {nano}", decide(spend, call(), facts)
    yield "spend that the ledger knows", decide(spend, call(), clerk())
    where = policy(rule("permit"), rule("limit", name="l", when=SMALL, limit=limit("count", 2, "calls")))
    for name, action in (("no", call(amount=50)), ("unknown", call())):
        yield f"a limit that matches: {name}", decide(where, action, clerk())


def _of_gates() -> Iterator[tuple[str, Verdict]]:
    yield "a gate", decide(GATED, PAY, clerk())
    yield "gates with sentences, and a leg", decide(SAID, PAY, clerk())
    where = policy(rule("permit"), rule("gate", name="g", when=SMALL, gate=gate(FINANCE)))
    for name, action in (("no", call(amount=50)), ("unknown", call())):
        yield f"a gate that matches: {name}", decide(where, action, clerk())
    opened = approval(GATED, BOB)
    yield "a gate that is open", decide(GATED, PAY, clerk(approvals=(opened,), now_ms=NOW))
    for state in ("denied", "expired", "withdrawn", "consumed"):
        shut = replace(opened, state=state)
        yield f"an approval that is {state}", decide(GATED, PAY, clerk(approvals=(shut,), now_ms=NOW))
    late = opened.expires_at_ms
    for now_ms in (None, late - 1, late, late + 1):
        yield f"an approval at {now_ms}", decide(GATED, PAY, clerk(approvals=(opened,), now_ms=now_ms))
    yield "an approval for other arguments", decide(GATED, call(amount=7), clerk(approvals=(opened,), now_ms=NOW))
    yield (
        "an approval for another gate",
        decide(GATED, PAY, clerk(approvals=(replace(opened, rule_id="h"),), now_ms=NOW)),
    )
    yield "an approval without consent", decide(GATED, PAY, clerk(approvals=(approval(GATED),), now_ms=NOW))
    yield "a consent of the requester", decide(GATED, PAY, clerk(approvals=(approval(GATED, ANN),), now_ms=NOW))
    early = Consent("bob", "user", ("finance",), ASKED - 1)
    yield "a consent before it was asked", decide(GATED, PAY, clerk(approvals=(approval(GATED, early),), now_ms=NOW))
    needs = policy(rule("permit"), rule("gate", name="g", gate=gate((2, "role", "finance"), RISK)))
    for name, consents in (("one", (BOB,)), ("the agent", (RISKS,)), ("all", (BOB, RISKS, replace(BOB, by="eve")))):
        yield (
            f"of three, consent of {name}",
            decide(needs, PAY, clerk(approvals=(approval(needs, *consents),), now_ms=NOW)),
        )
    nobody = {name: value for name, value in clerk().principal.items() if name != "user"}
    unknown = replace(clerk(approvals=(opened,), now_ms=NOW), principal=nobody)
    yield "an approval of a run without a user", decide(GATED, PAY, unknown)


def _of_facts() -> Iterator[tuple[str, Verdict]]:
    where = compile_policy("role clerk { permit pay where args.to from user }")
    for name, origin in (("user", USER), ("web", WEB), ("model", CLEAN_MODEL)):
        yield f"a value from {name}", decide(where, call(to="x"), clerk(origins={"to": origin}))
    yield "a value of which nobody knows", decide(where, call(to="x"), clerk(origins={}))
    hours = compile_policy(WEEKLY)
    for hour in (8, 9, 16, 17):
        zones = {"Europe/Berlin": LocalTime("2026-03-02", hour, 30, 1)}
        yield f"at {hour}", decide(hours, call(), clerk(zones=zones))
    yield "at a time that was not told", decide(hours, call(), clerk())
    secret = compile_policy(
        "role clerk { permit pay }\nlabel web.fetch yields secret\n"
        'forbid pay when run has secret unless released by role("dpo")'
    )
    for name, members in (
        ("clean", {}),
        ("secret", {"labels": frozenset({"secret"})}),
        ("released", {"labels": frozenset({"secret"}), "released": (Release("secret", "eve", ("dpo",)),)}),
        ("released by another", {"labels": frozenset({"secret"}), "released": (Release("secret", "eve", ("hr",)),)}),
        ("not told", {"labels": None}),
    ):
        yield f"a run that is {name}", decide(secret, call(), clerk(**members))


def _of_history() -> Iterator[tuple[str, Verdict]]:
    compiled = compile_policy(
        "role clerk { permit pay  permit tell }\ninvariant few: at most 2 pay within 1h per run\n"
        "invariant told: pay requires tell succeeded within 1h with same args.id\n"
        "invariant little: sum(args.amount) of pay <= 10 per run"
    )
    for name, events in (
        ("nothing", []),
        ("told", ["tell"]),
        ("paid once", ["tell", "pay"]),
        ("paid twice", ["tell", "pay", "pay"]),
        ("paid thrice", ["tell", "pay", "pay", "pay"]),
    ):
        history = History(compiled)
        for at_ms, tool in enumerate(events):
            event = Event(tool, {"id": 1, "amount": 4}, "requested", at_ms, clerk().principal, f"{at_ms}")
            history.add(event)
            history.add(replace(event, event="succeeded"))
        for action in (call(id=1, amount=2), call(id=2, amount=2), call(id=1)):
            args: Any = action["args"]
            yield f"after {name}: {args}", decide(compiled, action, clerk(history=history, now_ms=10))
    yield "without history", decide(compiled, call(id=1, amount=2), clerk())
    for unknown in (None, "now_ms", {"$number": "1.5"}, 3):
        facts = Facts.from_json({"principal": CLERK, "now_ms": 1, "history": {"w1": unknown}})
        yield f"history that says {unknown}", decide(compiled, call(id=1, amount=2), facts)


GROUPS: Final = {
    "form": _of_form,
    "rules": _of_rules,
    "limits": _of_limits,
    "gates": _of_gates,
    "facts": _of_facts,
    "history": _of_history,
}


def written(group: str) -> dict[str, JsonValue]:
    """Returns a group's verdicts as they are."""
    return {
        name: {**verdict.to_json(), "facts_read": verdict.facts_read, "shown": [str(each) for each in verdict.trace]}
        for name, verdict in GROUPS[group]()
    }


if __name__ == "__main__":
    groups = []
    for group in GROUPS:
        lines = (f"  {json.dumps(name)}: {json.dumps(each, sort_keys=True)}" for name, each in written(group).items())
        groups.append(f' "{group}": {{\n' + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(groups) + "\n}\n", encoding="utf-8")
