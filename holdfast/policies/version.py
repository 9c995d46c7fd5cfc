"""What a version of a policy is, and what was done with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from holdfast_verdict.policy import Policy

Origin = Literal["written", "tables", "starter"]
"""Who made a version: a person, Holdfast out of the roles' tables, or Holdfast for a new tenant."""
Use = Literal["active", "shadow"]
Act = Literal["activate", "roll_back", "shadow", "end_shadow"]

SOURCE_LENGTH_MAX: Final = 500_000
NOTE_LENGTH_MAX: Final = 1_000
NO_POLICY: Final = Policy(roles={}, rules=())
"""What a tenant without a policy is decided by: nothing permits anything (LAW 7)."""
NO_POLICY_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class PinnedPolicy:
    """The policy that a run is decided by now.

    Attributes:
        policy_id: Id of the version; `NO_POLICY_ID` if there is none.
        version: Its number; 0 if there is none.
        source: Its text.
        policy: What it compiles to; `NO_POLICY` if there is none, which denies everything.
        shadow_id: The candidate that is looked at beside it, if there is one and it is another version.
        shadow: What that compiles to.
    """

    policy_id: UUID
    version: int
    source: str
    policy: Policy
    shadow_id: UUID | None = None
    shadow: Policy | None = None


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of a tenant's policy; it never changes.

    Attributes:
        policy_id: Its id, which runs are pinned to.
        version: Its number, from 1.
        policy_hash: SHA-256 of what it compiles to.
        engine_version: The engine that accepted it.
        origin: Who made it.
        note: Why, in the words of who put it.
        put_by: Who put it.
        put_at: When.
    """

    policy_id: UUID
    version: int
    policy_hash: bytes
    engine_version: str
    origin: Origin
    note: str
    put_by: str
    put_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A version with its text.

    Attributes:
        about: The version.
        source: Its text.
        cases: The cases that were played before it was accepted, as TOML; may be empty.
        policy: What it compiles to.
    """

    about: PolicyVersion
    source: str
    cases: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Activation:
    """One act of putting a version to use, or of ending that.

    Attributes:
        seq: Its number among the tenant's.
        use: Whether it is about what decides, or about what is looked at in the shadow.
        action: What was done.
        policy_id: The version; None where the shadow was ended.
        version: Its number; None likewise.
        activated_by: Who did it.
        activated_at: When.
        reason: Why.
    """

    seq: int
    use: Use
    action: Act
    policy_id: UUID | None
    version: int | None
    activated_by: str
    activated_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class InUse:
    """Which versions of a tenant are in use; None where there is none."""

    active: Activation | None
    shadow: Activation | None
