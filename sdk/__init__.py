"""Who integrates? Holdfast over HTTP, from Python: a typed client that needs nothing of the server."""

from __future__ import annotations

from sdk.client import Holdfast
from sdk.errors import AnswerUnreadable, HoldfastApiError, HoldfastSdkError, NoAnswer
from sdk.types import (
    Agent,
    Approval,
    ApprovalToken,
    Cap,
    CreatedKey,
    CreatedRun,
    CreatedTenant,
    Decision,
    Event,
    Hold,
    Identity,
    Role,
    Run,
    RunInput,
    SentInput,
    StoredVersion,
    Tool,
    VaultEntry,
)

__all__ = [
    "Agent",
    "AnswerUnreadable",
    "Approval",
    "ApprovalToken",
    "Cap",
    "CreatedKey",
    "CreatedRun",
    "CreatedTenant",
    "Decision",
    "Event",
    "Hold",
    "Holdfast",
    "HoldfastApiError",
    "HoldfastSdkError",
    "Identity",
    "NoAnswer",
    "Role",
    "Run",
    "RunInput",
    "SentInput",
    "StoredVersion",
    "Tool",
    "VaultEntry",
]
