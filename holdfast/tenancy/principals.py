"""Who is calling, and what the roles of a key allow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast.errors import NotPermitted, RequestInvalid
from holdfast.ids import PLATFORM_TENANT_ID

OWNER: Final = "owner"
ADMIN: Final = "admin"
DEVELOPER: Final = "developer"
APPROVER: Final = "approver"
AUDITOR: Final = "auditor"
VIEWER: Final = "viewer"
AGENT: Final = "agent"
OPERATOR: Final = "operator"
"""Runs the platform: only a key of the platform's own tenant can have it."""

BUILT_IN: Final = frozenset({OWNER, ADMIN, DEVELOPER, APPROVER, AUDITOR, VIEWER, AGENT, OPERATOR})
READERS: Final = frozenset({OWNER, ADMIN, DEVELOPER, APPROVER, AUDITOR, VIEWER})
"""Roles that see the whole tenant. A key with none of them sees only what its own user started."""

_CONSENT_ROLE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, proven by an API key."""

    tenant_id: UUID
    tenant: str
    project_id: UUID
    project: str
    user_id: UUID
    user: str
    key_id: UUID
    roles: frozenset[str]

    @property
    def actor(self) -> str:
        """The name that journal and records cite."""
        return f"user:{self.user}"

    @property
    def is_operator(self) -> bool:
        """Whether this principal runs the platform."""
        return OPERATOR in self.roles and self.tenant_id == PLATFORM_TENANT_ID

    @property
    def sees_all(self) -> bool:
        """Whether it sees everything in its tenant, or only what its own user started."""
        return not self.roles.isdisjoint(READERS)

    def require(self, *roles: str) -> None:
        """Makes sure that the key has one of the roles.

        Raises:
            NotPermitted: It has none of them.
        """
        if OPERATOR in roles and self.is_operator:
            return
        if self.roles.isdisjoint(role for role in roles if role != OPERATOR):
            raise NotPermitted(
                f"this needs the role {' or '.join(roles)}, and the key has {', '.join(sorted(self.roles))}",
                remedy="call with a key that has it",
            )


def check_roles(roles: Iterable[str], *, tenant_id: UUID) -> list[str]:
    """Returns the roles of a new key, sorted.

    Besides the built-in roles a key may have roles of any name: rules may ask for the consent of `finance`, and such a role
    gives the right to consent and no other.

    Raises:
        RequestInvalid: There is none, a name is malformed, or an operator is asked for outside of the platform's tenant.
    """
    names = sorted(set(roles))
    if not names:
        raise RequestInvalid("a key needs at least one role", remedy=f"built-in roles: {', '.join(sorted(BUILT_IN))}")
    for name in names:
        if not _CONSENT_ROLE.fullmatch(name):
            raise RequestInvalid(f"{name[:80]!r} is no name of a role", remedy="use lower-case letters, digits and -")
    if OPERATOR in names and tenant_id != PLATFORM_TENANT_ID:
        raise RequestInvalid("only keys of the platform's own tenant can have the role operator")
    return names
