"""Policies in text, for tests."""

from __future__ import annotations

from typing import Final

SAMPLE: Final = """
role billing-agent {
  permit llm.call       where model in ["claude-*", "gpt-*"]
  permit invoice.read   where args.tenant == principal.tenant
  permit email.send     where args.to all in domain("acme.com") and args.body.bytes <= 20000
  permit http.request   to hosts ["api.stripe.com", "*.acme.com"] methods [GET, POST]
  permit payment.refund where args.amount <= usd(500)
  limit  payment.refund sum(args.amount) <= usd(2000) per 24h per tenant
  limit  llm.call count <= 200 per run
  limit  spend <= usd(5) per run
}
label crm.export yields secret
label web.fetch  yields untrusted

invariant notify-first:
  payment.refund requires notify.customer succeeded within 1h with same args.invoice
invariant no-exfil:
  forbid external when run has secret unless released by role("dpo")
invariant no-injected-target:
  forbid email.send when args.to from untrusted
gate big-refund:
  payment.refund where args.amount > usd(100)
  needs 1 of role("finance-human"), 1 of agent("risk-reviewer"), expires 30m, not requester
"""
"""The sample of the language's description."""
