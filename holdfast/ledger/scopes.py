"""Which scopes' caps apply: the one list that admission, estimates and decisions share."""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

from holdfast.ledger.types import Scope

ScopeKind = Literal["tenant", "project", "user", "run", "role", "user_project", "user_role", "project_role"]

PAIRS: Final[tuple[str, ...]] = ("user_project", "user_role", "project_role")
"""Kinds that join two: their ids and names are `first/second`."""


def scopes_above(tenant_id: UUID, project_id: UUID, user_id: UUID, role: str) -> tuple[Scope, ...]:
    """Returns the scopes above a run whose caps apply to all it does."""
    return (
        Scope("tenant", str(tenant_id)),
        Scope("project", str(project_id)),
        Scope("user", str(user_id)),
        Scope("role", role),
        Scope("user_project", f"{user_id}/{project_id}"),
        Scope("user_role", f"{user_id}/{role}"),
        Scope("project_role", f"{project_id}/{role}"),
    )


def scope_of_run(run_id: UUID) -> Scope:
    """Returns the scope of a run's own caps."""
    return Scope("run", str(run_id))
