"""The policy of a run. A run of a tenant that never had a policy is decided by its role's table, said as a policy."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.policies.store import read_pinned
from holdfast.policies.tables import policy_text
from holdfast.policies.version import NO_POLICY_ID, PinnedPolicy
from holdfast_verdict.decide import rule_from_json
from holdfast_verdict.language.compiler import compile_policy
from holdfast_verdict.policy import Policy

_KEPT_MAX: Final = 256
_READ_TABLE = text("SELECT rules FROM roles WHERE tenant_id = :tenant_id AND name = :name AND version = :version")

_compiled: OrderedDict[tuple[UUID, str, int], tuple[str, Policy]] = OrderedDict()


async def policy_of_run(
    connection: AsyncConnection, tenant_id: UUID, run_id: UUID, role: str, role_version: int
) -> PinnedPolicy:
    """Returns what a run is decided by.

    Args:
        connection: The caller's transaction.
        tenant_id: The tenant.
        run_id: The run.
        role: Its role.
        role_version: The version of it that the run is pinned to.

    Raises:
        RunUnknown: The tenant has no such run.
        PolicyBroken: What is stored is not what was accepted.
        PolicyRefused: The role's table is too large for a policy.
    """
    pinned = await read_pinned(connection, tenant_id, run_id)
    if pinned.version:
        return pinned
    key = (tenant_id, role, role_version)
    if key not in _compiled:
        parameters = {"tenant_id": tenant_id, "name": role, "version": role_version}
        rows = (await connection.execute(_READ_TABLE, parameters)).scalar_one()
        source = policy_text({role: tuple(map(rule_from_json, rows))})
        _compiled[key] = (source, compile_policy(source))
        if len(_compiled) > _KEPT_MAX:
            _compiled.popitem(last=False)
    return PinnedPolicy(NO_POLICY_ID, 0, *_compiled[key])
