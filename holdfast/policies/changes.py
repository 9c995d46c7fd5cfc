"""Changing a tenant's policy: each change in one transaction with the record of who made it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.decisions.record import record_change
from holdfast.policies import store
from holdfast.policies.version import Activation, PolicyVersion
from holdfast.tenancy.principals import ADMIN, OWNER, Principal
from holdfast_verdict.policy import Policy


async def push(
    connection: AsyncConnection, principal: Principal, source: str, policy: Policy, *, cases: str, note: str
) -> PolicyVersion:
    """Stores a version that was accepted, and records it; nothing is made active.

    Raises:
        NotPermitted: The principal may not change what is allowed.
    """
    principal.require(OWNER, ADMIN)
    tenant_id = principal.tenant_id
    stored = await store.put(connection, tenant_id, source, policy, put_by=principal.actor, note=note, cases=cases)
    await record_change(
        connection,
        tenant_id,
        principal,
        "policy.put",
        f"version {stored.version} of the policy is stored",
        {
            "policy_id": str(stored.policy_id),
            "version": stored.version,
            "policy_hash": stored.policy_hash.hex(),
            "note": note,
        },
    )
    return stored


async def activate(connection: AsyncConnection, principal: Principal, version: int, *, reason: str) -> Activation:
    """Makes a version the active one, and records it.

    Raises:
        NotFound: There is no such version.
        NotPermitted: The principal may not change what is allowed.
    """
    principal.require(OWNER, ADMIN)
    stored = await store.find(connection, principal.tenant_id, version)
    done = await store.activate(
        connection, principal.tenant_id, stored.about.policy_id, by=principal.actor, reason=reason
    )
    return await _recorded(connection, principal, done)


async def roll_back(
    connection: AsyncConnection, principal: Principal, version: int | None, *, reason: str
) -> Activation:
    """Makes an older version active again, and records it; without a number that which was active before.

    Raises:
        NotFound: There is no such version.
        Conflict: Nothing else was ever active.
        NotPermitted: The principal may not change what is allowed.
    """
    principal.require(OWNER, ADMIN)
    policy_id = await _id_of(connection, principal.tenant_id, version)
    done = await store.roll_back(connection, principal.tenant_id, policy_id, by=principal.actor, reason=reason)
    return await _recorded(connection, principal, done)


async def shadow(connection: AsyncConnection, principal: Principal, version: int | None, *, reason: str) -> Activation:
    """Lets a version be looked at beside the active one, and records it; None ends that.

    Raises:
        NotFound: There is no such version.
        Conflict: There is nothing to end.
        NotPermitted: The principal may not change what is allowed.
    """
    principal.require(OWNER, ADMIN)
    policy_id = await _id_of(connection, principal.tenant_id, version)
    done = await store.shadow(connection, principal.tenant_id, policy_id, by=principal.actor, reason=reason)
    return await _recorded(connection, principal, done)


async def _id_of(connection: AsyncConnection, tenant_id: UUID, version: int | None) -> UUID | None:
    return None if version is None else (await store.find(connection, tenant_id, version)).about.policy_id


_WORDS = {
    "activate": ("policy.activate", "version {} of the policy is active"),
    "roll_back": ("policy.roll_back", "version {} of the policy is active again"),
    "shadow": ("policy.shadow", "version {} of the policy is looked at beside the active one"),
    "end_shadow": ("policy.shadow", "no version of the policy is looked at beside the active one any more"),
}


async def _recorded(connection: AsyncConnection, principal: Principal, done: Activation) -> Activation:
    code, words = _WORDS[done.action]
    await record_change(
        connection,
        principal.tenant_id,
        principal,
        code,
        words.format(done.version),
        {
            "seq": done.seq,
            "action": done.action,
            "policy_id": None if done.policy_id is None else str(done.policy_id),
            "version": done.version,
            "reason": done.reason,
        },
    )
    return done
