"""Codes with which a model call ends badly."""

from __future__ import annotations

from typing import Final

from holdfast.codes.entry import Code, Place


def _model(code: str, cause: str, remedy: str) -> Code:
    return Code(code, (Place.RESULT, Place.RUN), cause, remedy)


CODES: Final = (
    _model(
        "provider.rate_limited",
        "The model's provider takes no more requests for now; nothing was billed.",
        "Nothing at first: the run tries again when the provider says so. Else ask the provider for a higher limit.",
    ),
    _model(
        "provider.refused",
        "The provider refused the request: a wrong key, an unknown model, or content that it does not take.",
        "Read the sentence; mend the key with `holdfast vault put`, or the model's name in the agent.",
    ),
    _model(
        "provider.failed",
        "The provider failed inside; it may have billed the call.",
        "Nothing at first: the run tries again, and each try has a hold of its own. Look at the provider's status page.",
    ),
    _model(
        "provider.timeout",
        "No complete answer came in time; what was sent may be billed.",
        "Give calls more time (`HOLDFAST_LEASE_LLM_MS`), or ask for a shorter answer.",
    ),
    _model(
        "provider.cut",
        "The connection was lost, or the call stopped, before the answer was complete.",
        "Nothing at first: what is known of its cost was charged, and the run tries again.",
    ),
    _model(
        "provider.rubbish",
        "What came back is not of the provider's wire.",
        "Check the provider's `base_url`: it may be another service, or a proxy that rewrites answers.",
    ),
    _model(
        "provider.unreachable",
        "The provider cannot be reached; nothing was sent and nothing billed.",
        "Check name resolution, firewall and proxy of the executor, and the provider's `base_url`.",
    ),
)
