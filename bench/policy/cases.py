"""Policies of any size, and the actions and facts that are decided by them."""

from __future__ import annotations

from typing import Final

from holdfast_verdict import Catalogue, Facts, History, Policy, compile_policy
from holdfast_verdict.actions import CanonicalAction
from holdfast_verdict.engine.facts import Estimate, LocalTime
from holdfast_verdict.engine.history import Event
from holdfast_verdict.provenance import Origin

NOW_MS: Final = 1_790_000_000_000
PRINCIPAL: Final = {
    "tenant": "acme",
    "project": "desk",
    "user": "ann",
    "agent": "desk-1",
    "role": "desk-0",
    "run": "run-1",
}
USER: Final = Origin(frozenset({"user"}))

_TEXT: Final = {"type": "string"}
_TOOLS: Final[dict[str, dict[str, object]]] = {
    "mail.send": {
        "to": {"type": "array", "items": {"type": "string", "format": "email"}},
        "subject": _TEXT,
        "body": _TEXT,
    },
    "invoice.read": {"tenant": _TEXT, "invoice": _TEXT},
    "notify.customer": {"invoice": _TEXT, "text": _TEXT},
    "payment.refund": {"invoice": _TEXT, "amount": {"type": "number"}},
    "web.fetch": {"url": {"type": "string", "format": "uri"}, "method": {"enum": ["GET", "POST"]}},
    "file.read": {"path": {"type": "string", "format": "path"}},
    "file.write": {"path": {"type": "string", "format": "path"}, "content": _TEXT},
    "crm.export": {"fields": {"type": "array", "items": _TEXT}},
}
CATALOGUE: Final = Catalogue.of(
    {name: {"parameters": {"type": "object", "properties": properties}} for name, properties in _TOOLS.items()}
)

_HEAD: Final = """
label crm.export yields secret
label web.fetch yields untrusted

invariant notify-first:
  payment.refund requires notify.customer succeeded within 1h with same args.invoice
invariant no-exfil:
  forbid external when run has secret unless released by role("dpo")
invariant no-injected-target:
  forbid mail.send when args.to from untrusted
invariant not-too-often:
  at most 1000000 mail.send within 1h per tenant
invariant nothing-after-export:
  forbid web.fetch after crm.export within 1h
invariant refunds-in-sum:
  sum(args.amount) of payment.refund <= usd(100000) within 24h per tenant
gate big-refund:
  payment.refund where args.amount > usd(100)
  needs 1 of role("finance-human"), expires 30m, not requester
gate export:
  crm.export needs 1 of role("dpo"), expires 1d, not requester
forbid file.write where args.path in path("/etc")
forbid web.fetch where args.method == "POST" and args.url in host("169.254.169.254")
"""
_ROLE: Final = """
role desk-{n} {{
  permit mail.send where args.to all in domain("acme.com") and args.body.bytes <= 20000
  permit mail.send where args.to all in domain("partner-{n}.com") and args.body.bytes <= 2000
  permit invoice.read where args.tenant == principal.tenant
  permit notify.customer where args.text.bytes <= 2000
  permit payment.refund where args.amount <= usd(500)
  permit web.fetch where args.url in host("*.acme.com") and args.method == "GET"
  permit web.fetch where args.url in host("api-{n}.partner.com")
  permit file.read where args.path in path("/srv/desk-{n}")
  permit file.write where args.path in path("/srv/desk-{n}/out")
  permit crm.export where args.fields all in ["name", "city", "plan-{n}"]
  forbid file.write where args.content contains "BEGIN PRIVATE KEY"
  forbid mail.send where args.subject starts with "FWD:"
  limit payment.refund sum(args.amount) <= usd(2000) per 24h per tenant
  limit mail.send count <= 200 per run
  limit spend <= usd(5) per run
}}
"""
HEAD_RULES: Final = 10
ROLE_RULES: Final = 15
_CALLS: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("mail.send", {"to": ["bob@acme.com"], "subject": "Your order", "body": "It is on its way. " * 20}),
    ("invoice.read", {"tenant": "acme", "invoice": "in-7"}),
    ("notify.customer", {"invoice": "in-7", "text": "We refund your order."}),
    ("payment.refund", {"invoice": "in-7", "amount": 50}),
    ("web.fetch", {"url": "https://www.acme.com/orders/7", "method": "GET"}),
    ("file.read", {"path": "/srv/desk-0/notes.txt"}),
)


def text_of(rules: int) -> str:
    """Returns a policy of about so many rules: a few for all roles, and the same number more for each further role."""
    roles = max(1, round((rules - HEAD_RULES) / ROLE_RULES))
    return _HEAD + "".join(_ROLE.format(n=number) for number in range(roles))


def compiled(rules: int) -> Policy:
    """Compiles such a policy."""
    return compile_policy(text_of(rules), CATALOGUE)


def actions() -> list[CanonicalAction]:
    """Returns what the first role does: six calls that are allowed."""
    return [CATALOGUE.action(name, dict(arguments)) for name, arguments in _CALLS]


def history(policy: Policy, events: int) -> History:
    """Returns a history of so many events, of which the last hour has all."""
    kept = History(policy, principal=PRINCIPAL)
    step_ms = 3_000_000 // events
    for number in range(events // 2):
        name, arguments = _CALLS[number % len(_CALLS)]
        at_ms = NOW_MS - 3_100_000 + 2 * number * step_ms
        args = CATALOGUE.action(name, {**arguments, **({"amount": 1} if name == "payment.refund" else {})}).args
        for event, later_ms in (("requested", 0), ("succeeded", step_ms)):
            kept.add(Event(name, args, event, at_ms + later_ms, PRINCIPAL, str(number)))  # type: ignore[arg-type]  # the loop gives its two literals as texts
    return kept


def facts(policy: Policy, events: int) -> Facts:
    """Returns the facts of a run of the first role that has done so much."""
    return Facts(
        PRINCIPAL,
        NOW_MS,
        {zone: LocalTime("2026-09-21", 12, 0, 1) for zone in policy.zones},
        frozenset({"internal"}),
        (),
        origins={"to[0]": USER},
        history=history(policy, events),
        estimate=Estimate(1000, 10),
    )
