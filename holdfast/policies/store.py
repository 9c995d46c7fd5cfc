"""Versions of policies and what is active: every version is kept, every activation is a row of its own.

All that changes which policy decides waits in one line per tenant, so two activations have an order, and the newest row says what
is active. Whoever reads takes no lock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.errors import Conflict, NotFound, PolicyBroken, RunUnknown
from holdfast.ids import new_id
from holdfast.policies.version import (
    NO_POLICY,
    NO_POLICY_ID,
    Act,
    Activation,
    InUse,
    Origin,
    PinnedPolicy,
    PolicyVersion,
    StoredPolicy,
    Use,
)
from holdfast_verdict import compile_policy
from holdfast_verdict.canonical import canonical_bytes
from holdfast_verdict.engine.deciding import ENGINE_VERSION
from holdfast_verdict.policy import Policy
from holdfast_verdict.problems import PolicyRefused

POLICIES_KEPT: Final = 256
"""Compiled policies that a process keeps, by hash; as many as the engine keeps programs."""
VERSIONS_KEPT: Final = 1_024

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))")
_ABOUT: Final = "p.policy_id, p.version, p.policy_hash, p.engine_version, p.origin, p.note, p.put_by, p.put_at"
_NEWEST_USE: Final = """(SELECT a.policy_id FROM policy_activations a
    WHERE a.tenant_id = r.tenant_id AND a.use = '{}' ORDER BY a.seq DESC LIMIT 1)"""
# One statement, so one moment: a run that follows the latest has what is active now, and never half of an activation.
_PIN = text(f"""
    SELECT CASE WHEN r.follows_latest THEN {_NEWEST_USE.format("active")} ELSE r.policy_id END AS policy_id,
           {_NEWEST_USE.format("shadow")} AS shadow_id, r.follows_latest, r.role_name, r.role_version
    FROM runs r WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")  # noqa: S608 (constants of this module)
_ONE = text(
    f"SELECT {_ABOUT}, p.source, p.cases, p.compiled FROM policies p "  # noqa: S608 (a constant)
    "WHERE p.tenant_id = :tenant_id AND p.policy_id = :policy_id"
)
_BY_NUMBER = text("SELECT policy_id FROM policies WHERE tenant_id = :tenant_id AND version = :version")
_NEWEST = text("SELECT policy_id FROM policies WHERE tenant_id = :tenant_id ORDER BY version DESC LIMIT 1")
_LIST = text(f"""
    SELECT {_ABOUT} FROM policies p WHERE p.tenant_id = :tenant_id AND p.version < :before ORDER BY p.version DESC LIMIT :count
""")  # noqa: S608 (a constant)
_INSERT = text("""
    INSERT INTO policies (tenant_id, policy_id, version, source, compiled, policy_hash, engine_version, origin, cases, note, put_by)
    SELECT :tenant_id, :policy_id, coalesce(max(version), 0) + 1, :source, :compiled, :policy_hash, :engine_version, :origin, :cases,
           :note, :put_by
    FROM policies WHERE tenant_id = :tenant_id
    RETURNING policy_id, version, policy_hash, engine_version, origin, note, put_by, put_at
""")
_ACTIVATE = text("""
    INSERT INTO policy_activations (tenant_id, seq, use, action, policy_id, activated_by, reason)
    SELECT :tenant_id, coalesce(max(seq), 0) + 1, :use, :action, :policy_id, :activated_by, :reason
    FROM policy_activations WHERE tenant_id = :tenant_id
    RETURNING seq, activated_at
""")
_ACTIVATIONS: Final = """
    SELECT a.seq, a.use, a.action, a.policy_id, p.version, a.activated_by, a.activated_at, a.reason
    FROM policy_activations a LEFT JOIN policies p ON p.tenant_id = a.tenant_id AND p.policy_id = a.policy_id
    WHERE a.tenant_id = :tenant_id
"""
_IN_USE = text(f"""
    (SELECT * FROM ({_ACTIVATIONS} AND a.use = 'active' ORDER BY a.seq DESC LIMIT 1) active)
    UNION ALL (SELECT * FROM ({_ACTIVATIONS} AND a.use = 'shadow' ORDER BY a.seq DESC LIMIT 1) shadow)
""")  # noqa: S608 (constants of this module)
_LOG = text(f"{_ACTIVATIONS} AND a.seq < :before ORDER BY a.seq DESC LIMIT :count")
_BEFORE_ACTIVE = text("""
    SELECT a.policy_id FROM policy_activations a WHERE a.tenant_id = :tenant_id AND a.use = 'active' AND a.policy_id <> :policy_id
    ORDER BY a.seq DESC LIMIT 1
""")
# Decisions of runs that follow the latest have read which policy is active: they have to look again (see ledger_reserve).
_BUMP_FOLLOWERS = text("""
    WITH followers AS (
        SELECT run_id FROM runs WHERE tenant_id = :tenant_id AND follows_latest AND ended_at IS NULL
        ORDER BY run_id FOR NO KEY UPDATE)
    UPDATE runs r SET history_version = r.history_version + 1 FROM followers f
    WHERE r.tenant_id = :tenant_id AND r.run_id = f.run_id
""")

_OF_ROLE = text("SELECT source FROM roles WHERE tenant_id = :tenant_id AND name = :name AND version = :version")

_of_roles: OrderedDict[tuple[UUID, str, int], tuple[str, Policy]] = OrderedDict()
_policies: OrderedDict[bytes, Policy] = OrderedDict()
_versions: OrderedDict[tuple[UUID, UUID], StoredPolicy] = OrderedDict()
_kept = Lock()


def compiled_form(policy: Policy) -> bytes:
    """Returns the bytes that a policy is kept as, and that its hash is over."""
    return canonical_bytes(policy.to_json())


async def read_pinned(connection: AsyncConnection, tenant_id: UUID, run_id: UUID) -> PinnedPolicy:
    """Returns what a run is decided by: the version it began with, or the active one if it asked to follow the latest.

    A run that was admitted before its tenant had a policy is decided by what its own version of the role says; with
    neither a policy nor such a text it is the empty policy, which denies everything (LAW 7).

    Raises:
        RunUnknown: The tenant has no such run.
        PolicyBroken: What is stored is not what was accepted.
    """
    row = (await connection.execute(_PIN, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None:
        raise RunUnknown(f"there is no run {run_id}")
    shadow_id: UUID | None = None if row.shadow_id == row.policy_id else row.shadow_id
    shadow = (await read_version(connection, tenant_id, shadow_id)).policy if shadow_id else None
    if row.policy_id is None:
        source, policy = "", NO_POLICY
        if not row.follows_latest:
            source, policy = await _of_role(connection, tenant_id, row.role_name, row.role_version)
        return PinnedPolicy(NO_POLICY_ID, 0, source, policy, shadow_id, shadow)
    stored = await read_version(connection, tenant_id, row.policy_id)
    return PinnedPolicy(stored.about.policy_id, stored.about.version, stored.source, stored.policy, shadow_id, shadow)


async def _of_role(connection: AsyncConnection, tenant_id: UUID, name: str, version: int) -> tuple[str, Policy]:
    key = (tenant_id, name, version)
    with _kept:
        if key in _of_roles:
            _of_roles.move_to_end(key)
            return _of_roles[key]
    source: str | None = await connection.scalar(_OF_ROLE, {"tenant_id": tenant_id, "name": name, "version": version})
    if not source:
        return "", NO_POLICY
    policy = await asyncio.to_thread(compile_policy, source)
    with _kept:
        _of_roles[key] = source, policy
        if len(_of_roles) > VERSIONS_KEPT:
            _of_roles.popitem(last=False)
    return source, policy


async def read_version(connection: AsyncConnection, tenant_id: UUID, policy_id: UUID) -> StoredPolicy:
    """Returns a version; versions never change, so it is kept.

    Raises:
        NotFound: The tenant has no such version.
        PolicyBroken: What is stored is not what was accepted.
    """
    key = (tenant_id, policy_id)
    with _kept:
        stored = _versions.get(key)
        if stored is not None:
            _versions.move_to_end(key)
            return stored
    row = (await connection.execute(_ONE, {"tenant_id": tenant_id, "policy_id": policy_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no policy {policy_id}", remedy="list them: GET /v1/policies")
    policy = await _loaded(policy_id, row.policy_hash, row.compiled)
    stored = StoredPolicy(PolicyVersion(*row[:8]), row.source, row.cases, policy)
    with _kept:
        _versions[key] = stored
        if len(_versions) > VERSIONS_KEPT:
            _versions.popitem(last=False)
    return stored


async def _loaded(policy_id: UUID, policy_hash: bytes, compiled: bytes) -> Policy:
    """Returns the policy of a hash, which a process reads once."""
    with _kept:
        policy = _policies.get(policy_hash)
        if policy is not None:
            _policies.move_to_end(policy_hash)
            return policy
    policy = await asyncio.to_thread(_read_compiled, policy_id, policy_hash, compiled)
    with _kept:
        policy = _policies.setdefault(policy_hash, policy)
        if len(_policies) > POLICIES_KEPT:
            _policies.popitem(last=False)
    return policy


def _read_compiled(policy_id: UUID, policy_hash: bytes, compiled: bytes) -> Policy:
    remedy = "restore the database from a backup, or put the policy's text again"
    try:
        policy = Policy.from_json(orjson.loads(compiled))
    except (PolicyRefused, orjson.JSONDecodeError) as error:
        raise PolicyBroken(f"policy {policy_id} cannot be read: {error}", remedy=remedy) from None
    if policy.policy_hash != policy_hash:
        raise PolicyBroken(f"policy {policy_id} is not what its hash says", remedy=remedy)
    return policy


async def lock(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Waits for its turn to change which policies the tenant has or uses; holds until the transaction ends."""
    await connection.execute(_LOCK, {"name": f"{tenant_id} policy"})


async def put(
    connection: AsyncConnection,
    tenant_id: UUID,
    source: str,
    policy: Policy,
    *,
    put_by: str,
    note: str = "",
    cases: str = "",
    origin: Origin = "written",
) -> PolicyVersion:
    """Stores a version, or returns the newest one if that has the same text, cases and compiled form. Nothing is made active.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        source: The text.
        policy: What it compiles to.
        put_by: Who puts it.
        note: Why.
        cases: The cases that were played, as TOML.
        origin: Who made it.
    """
    await lock(connection, tenant_id)
    newest: UUID | None = await connection.scalar(_NEWEST, {"tenant_id": tenant_id})
    if newest is not None:
        stored = await read_version(connection, tenant_id, newest)
        same = (stored.source, stored.cases, stored.about.policy_hash, stored.about.origin)
        if same == (source, cases, policy.policy_hash, origin):
            return stored.about
    row = (
        await connection.execute(
            _INSERT,
            {
                "tenant_id": tenant_id,
                "policy_id": new_id(),
                "source": source,
                "compiled": compiled_form(policy),
                "policy_hash": policy.policy_hash,
                "engine_version": ENGINE_VERSION,
                "origin": origin,
                "cases": cases,
                "note": note,
                "put_by": put_by,
            },
        )
    ).one()
    return PolicyVersion(*row)


async def activate(
    connection: AsyncConnection, tenant_id: UUID, policy_id: UUID, *, by: str, reason: str = ""
) -> Activation:
    """Makes a version the one that new runs are pinned to, and that runs which follow the latest are decided by.

    Raises:
        NotFound: The tenant has no such version.
    """
    return await _use(connection, tenant_id, "active", "activate", policy_id, by=by, reason=reason)


async def roll_back(
    connection: AsyncConnection, tenant_id: UUID, policy_id: UUID | None = None, *, by: str, reason: str = ""
) -> Activation:
    """Makes an older version active again: the one that was active before, or the one that is named.

    Raises:
        NotFound: The tenant has no such version.
        Conflict: Nothing else was ever active.
    """
    await lock(connection, tenant_id)
    if policy_id is None:
        active = (await in_use(connection, tenant_id)).active
        if active is not None:
            parameters = {"tenant_id": tenant_id, "policy_id": active.policy_id}
            policy_id = await connection.scalar(_BEFORE_ACTIVE, parameters)
        if policy_id is None:
            raise Conflict(
                "no other version was active before", remedy="name a version, or activate one: see GET /v1/policies"
            )
    return await _use(connection, tenant_id, "active", "roll_back", policy_id, by=by, reason=reason)


async def shadow(
    connection: AsyncConnection, tenant_id: UUID, policy_id: UUID | None, *, by: str, reason: str = ""
) -> Activation:
    """Lets a version be looked at beside the active one, without acting; None ends that.

    Raises:
        NotFound: The tenant has no such version.
        Conflict: There is nothing to end.
    """
    await lock(connection, tenant_id)
    if policy_id is None:
        current = (await in_use(connection, tenant_id)).shadow
        if current is None or current.policy_id is None:
            raise Conflict("no version is looked at in the shadow")
    act: Act = "end_shadow" if policy_id is None else "shadow"
    return await _use(connection, tenant_id, "shadow", act, policy_id, by=by, reason=reason)


async def _use(
    connection: AsyncConnection,
    tenant_id: UUID,
    use: Use,
    act: Act,
    policy_id: UUID | None,
    *,
    by: str,
    reason: str,
) -> Activation:
    await lock(connection, tenant_id)
    version = None if policy_id is None else (await read_version(connection, tenant_id, policy_id)).about.version
    parameters: Mapping[str, Any] = {  # Any: values of columns
        "tenant_id": tenant_id,
        "use": use,
        "action": act,
        "policy_id": policy_id,
        "activated_by": by,
        "reason": reason,
    }
    row = (await connection.execute(_ACTIVATE, parameters)).one()
    await connection.execute(_BUMP_FOLLOWERS, {"tenant_id": tenant_id})
    return Activation(row.seq, use, act, policy_id, version, by, row.activated_at, reason)


async def in_use(connection: AsyncConnection, tenant_id: UUID) -> InUse:
    """Returns what is active now, and what is looked at in the shadow."""
    rows = await connection.execute(_IN_USE, {"tenant_id": tenant_id})
    newest = {row.use: Activation(*row) for row in rows}
    return InUse(newest.get("active"), newest.get("shadow"))


async def active(connection: AsyncConnection, tenant_id: UUID) -> StoredPolicy | None:
    """Returns the version that is active now, if there is one."""
    newest = (await in_use(connection, tenant_id)).active
    if newest is None or newest.policy_id is None:
        return None
    return await read_version(connection, tenant_id, newest.policy_id)


async def find(connection: AsyncConnection, tenant_id: UUID, version: int) -> StoredPolicy:
    """Returns a version by its number.

    Raises:
        NotFound: The tenant has no such version.
    """
    policy_id: UUID | None = await connection.scalar(_BY_NUMBER, {"tenant_id": tenant_id, "version": version})
    if policy_id is None:
        raise NotFound(f"there is no version {version} of the policy", remedy="list them: GET /v1/policies")
    return await read_version(connection, tenant_id, policy_id)


async def versions(connection: AsyncConnection, tenant_id: UUID, *, before: int, count: int) -> list[PolicyVersion]:
    """Returns versions with a number below `before`, the newest first."""
    rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "before": before, "count": count})
    return [PolicyVersion(*row) for row in rows]


async def activations(connection: AsyncConnection, tenant_id: UUID, *, before: int, count: int) -> list[Activation]:
    """Returns what was done with versions, the newest first."""
    rows = await connection.execute(_LOG, {"tenant_id": tenant_id, "before": before, "count": count})
    return [Activation(*row) for row in rows]
