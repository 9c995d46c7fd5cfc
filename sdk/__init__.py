"""Who integrates? Holdfast over HTTP, from Python: a typed client that needs nothing of the server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdk.approvals import Approval, ApprovalLink, ApprovalToken, Release, Signer
    from sdk.client import Holdfast
    from sdk.decisions import Decision, DecisionDetail
    from sdk.errors import AnswerUnreadable, HoldfastApiError, HoldfastSdkError, NoAnswer
    from sdk.policies import Policies, PolicyActivation, PolicyRehearsal, PolicyText, PolicyVersion, ShadowReport
    from sdk.retention import Erasure, LegalHold, PlacedLegalHold, Retention
    from sdk.types import (
        Agent,
        Artefact,
        AskedTier,
        Cap,
        CapChange,
        CapShare,
        CodeMeaning,
        CreatedKey,
        CreatedRun,
        CreatedTenant,
        CrossCheck,
        Difference,
        Estimate,
        Event,
        Hold,
        Identity,
        Key,
        Project,
        Role,
        Run,
        RunInput,
        SandboxTiers,
        SentInput,
        Spend,
        Spent,
        StandingStop,
        Stop,
        StoredVersion,
        Tenant,
        Tool,
        User,
        VaultEntry,
    )
    from sdk.webhooks import Delivery, Webhook

__all__ = [
    "Agent",
    "AnswerUnreadable",
    "Approval",
    "ApprovalLink",
    "ApprovalToken",
    "Artefact",
    "AskedTier",
    "Cap",
    "CapChange",
    "CapShare",
    "CodeMeaning",
    "CreatedKey",
    "CreatedRun",
    "CreatedTenant",
    "CrossCheck",
    "Decision",
    "DecisionDetail",
    "Delivery",
    "Difference",
    "Erasure",
    "Estimate",
    "Event",
    "Hold",
    "Holdfast",
    "HoldfastApiError",
    "HoldfastSdkError",
    "Identity",
    "Key",
    "LegalHold",
    "NoAnswer",
    "PlacedLegalHold",
    "Policies",
    "PolicyActivation",
    "PolicyRehearsal",
    "PolicyText",
    "PolicyVersion",
    "Project",
    "Release",
    "Retention",
    "Role",
    "Run",
    "RunInput",
    "SandboxTiers",
    "SentInput",
    "ShadowReport",
    "Signer",
    "Spend",
    "Spent",
    "StandingStop",
    "Stop",
    "StoredVersion",
    "Tenant",
    "Tool",
    "User",
    "VaultEntry",
    "Webhook",
]

_MODULES = (
    "sdk.approvals",
    "sdk.client",
    "sdk.decisions",
    "sdk.errors",
    "sdk.policies",
    "sdk.retention",
    "sdk.types",
    "sdk.webhooks",
)


def __getattr__(name: str) -> object:
    """Imports the client when it is first asked for: tools are written with `sdk.tools` alone, and each call starts a process."""
    if name in __all__:
        for module in map(import_module, _MODULES):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
