"""The same fifty rules in our language and in Cedar's: roles that may do things if their arguments are as they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cedarpy

from bench.policy.cases import CATALOGUE
from holdfast_verdict import Facts, Policy, compile_policy, decide
from holdfast_verdict.actions import CanonicalAction

Ask = Callable[[], bool]
ROLES: Final = 5
_RULES: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("permit", "invoice.read", "args.tenant == principal.tenant", "context.args.tenant == context.tenant"),
    ("permit", "payment.refund", "args.amount <= 500", "context.args.amount <= 500"),
    ("permit", "web.fetch", 'args.method == "GET"', 'context.args.method == "GET"'),
    ("permit", "mail.send", 'args.subject in ["a-{n}", "b"]', '["a-{n}", "b"].contains(context.args.subject)'),
    ("permit", "notify.customer", 'args.text starts with "Dear-{n}"', 'context.args.text like "Dear-{n}*"'),
    ("permit", "file.read", 'args.path == "/srv/{n}"', 'context.args.path == "/srv/{n}"'),
    ("permit", "file.write", 'args.path == "/srv/{n}/out"', 'context.args.path == "/srv/{n}/out"'),
    ("permit", "crm.export", 'args.fields contains "name-{n}"', 'context.args.fields.contains("name-{n}")'),
    ("forbid", "payment.refund", 'args.invoice == "closed-{n}"', 'context.args.invoice == "closed-{n}"'),
    ("forbid", "web.fetch", 'args.url == "https://evil-{n}.com/"', 'context.args.url == "https://evil-{n}.com/"'),
)
_CALLS: Final[tuple[tuple[str, dict[str, object], bool], ...]] = (
    ("invoice.read", {"tenant": "acme", "invoice": "in-7"}, True),
    ("invoice.read", {"tenant": "other", "invoice": "in-7"}, False),
    ("payment.refund", {"invoice": "in-7", "amount": 50}, True),
    ("payment.refund", {"invoice": "closed-0", "amount": 50}, False),
    ("web.fetch", {"url": "https://acme.com/", "method": "GET"}, True),
    ("mail.send", {"to": ["bob@acme.com"], "subject": "a-0", "body": "Hello"}, True),
    ("mail.send", {"to": ["bob@acme.com"], "subject": "a-1", "body": "Hello"}, False),
    ("notify.customer", {"invoice": "in-7", "text": "Dear-0 Ann"}, True),
    ("crm.export", {"fields": ["name-0"]}, True),
)


def _ours(policy: Policy, action: CanonicalAction, facts: Facts) -> Ask:
    return lambda: decide(policy, action, facts).allowed


def _theirs(request: dict[str, object], policies: cedarpy.PolicySet, entities: cedarpy.Entities) -> Ask:
    return lambda: bool(cedarpy.is_authorized(request, policies, entities).allowed)


def pairs() -> list[tuple[Ask, Ask, bool]]:
    """Returns for each request how we decide it, how Cedar does, and what both have to say."""
    ours, theirs = [], []
    for number in range(ROLES):
        rules = [tuple(part.format(n=number) for part in rule) for rule in _RULES]
        ours.append(f"role desk-{number} {{\n" + "".join(f"  {e} {a} where {w}\n" for e, a, w, _ in rules) + "}\n")
        theirs += [
            f'{effect}(principal == Role::"desk-{number}", action == Action::"{action}", resource) when {{ {when} }};'
            for effect, action, _, when in rules
        ]
    policy = compile_policy("".join(ours), CATALOGUE)
    assert len(policy.rules) == len(theirs) == ROLES * len(_RULES)
    policies, entities = cedarpy.PolicySet.from_str("\n".join(theirs)), cedarpy.Entities.from_json_str("[]")
    facts = Facts({"role": "desk-0", "tenant": "acme"}, labels=frozenset())
    found: list[tuple[Ask, Ask, bool]] = []
    for name, arguments, allowed in _CALLS:
        action = CATALOGUE.action(name, dict(arguments))
        request: dict[str, object] = {
            "principal": 'Role::"desk-0"',
            "action": f'Action::"{name}"',
            "resource": 'Tenant::"acme"',
            "context": {"args": dict(action.args), "tenant": "acme"},
        }
        found.append((_ours(policy, action, facts), _theirs(request, policies, entities), allowed))
    return found
