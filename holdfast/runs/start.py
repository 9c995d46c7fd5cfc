"""Starting a run's workflow, from its row. The row is the outbox: whoever finds it unstarted calls this, API or sweeper.

Twice is no harm: the workflow's id is the run's, and Temporal lets an id start once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from holdfast.contracts import names
from holdfast.contracts.run import StartRun
from holdfast.database.engine import transaction

_log = structlog.get_logger(__name__)

RPC_TIMEOUT: Final = timedelta(seconds=5)
TASK_TIMEOUT: Final = timedelta(seconds=5)
_REGISTRATION_TIMEOUT_S: Final = 15.0

_READ = text("""
    SELECT r.started_at IS NOT NULL OR r.ended_at IS NOT NULL AS done, t.slug AS tenant, p.slug AS project, u.name AS user_name,
           r.agent_name, r.agent_version, r.role_name, r.role_version
    FROM runs r
    JOIN tenants t ON t.tenant_id = r.tenant_id
    JOIN projects p ON p.tenant_id = r.tenant_id AND p.project_id = r.project_id
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.user_id
    WHERE r.tenant_id = :tenant_id AND r.run_id = :run_id
""")

_MARK_STARTED = text("""
    UPDATE runs SET started_at = now() WHERE tenant_id = :tenant_id AND run_id = :run_id AND started_at IS NULL
""")


async def start_run(client: Client, engine: AsyncEngine, tenant_id: UUID, run_id: UUID) -> bool:
    """Starts the workflow of an admitted run unless that has happened, and marks it.

    Args:
        client: Temporal, with Holdfast's data converter.
        engine: Database as the API or as a sweeper.
        tenant_id: The tenant.
        run_id: The run.

    Returns:
        Whether this call started it or found it running.

    Raises:
        RPCError: Temporal does not answer or refuses; the run stays pending and a later call starts it.
    """
    async with transaction(engine, tenant_id) as connection:
        row = (await connection.execute(_READ, {"tenant_id": tenant_id, "run_id": run_id})).one_or_none()
    if row is None or row.done:
        return False
    attributes = {
        "tenant": row.tenant,
        "project": row.project,
        "user": row.user_name,
        "agent": row.agent_name,
        "role": row.role_name,
        "status": "pending",
    }
    try:
        await client.start_workflow(
            names.AGENT_RUN,
            StartRun(),
            id=str(run_id),
            task_queue=names.GOVERNOR_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=typed_attributes(attributes),
            static_summary=f"{row.agent_name} for {row.tenant}/{row.project}",
            static_details=(
                f"agent `{row.agent_name}` version {row.agent_version}, role `{row.role_name}` version {row.role_version}, "
                f"user `{row.user_name}`"
            ),
            # how soon another governor takes over when one dies in the middle of a workflow task
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=RPC_TIMEOUT,
        )
    except WorkflowAlreadyStartedError:
        _log.info("run.started_before", run_id=str(run_id))
    async with transaction(engine, tenant_id) as connection:
        await connection.execute(_MARK_STARTED, {"tenant_id": tenant_id, "run_id": run_id})
    return True


def typed_attributes(values: dict[str, str]) -> TypedSearchAttributes:
    """Returns search attributes by their short names; see `names.SEARCH_ATTRIBUTES`."""
    pairs: Sequence[SearchAttributePair[str]] = [
        SearchAttributePair(SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTES[name]), value)
        for name, value in values.items()
    ]
    return TypedSearchAttributes(pairs)


async def ensure_search_attributes(client: Client) -> None:
    """Makes the namespace know the search attributes; safe to call by many processes at once.

    Raises:
        RPCError: Temporal does not answer or refuses.
        TimeoutError: The namespace did not take them over in time.
    """
    async with asyncio.timeout(_REGISTRATION_TIMEOUT_S):
        while missing := await _missing_attributes(client):
            request = AddSearchAttributesRequest(
                search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
                namespace=client.namespace,
            )
            try:
                await client.operator_service.add_search_attributes(request, timeout=RPC_TIMEOUT)
            except RPCError as error:
                # another process adds them at this moment
                if error.status not in (RPCStatusCode.ALREADY_EXISTS, RPCStatusCode.ABORTED):
                    raise
            await asyncio.sleep(0.1)


async def _missing_attributes(client: Client) -> set[str]:
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
    )
    return set(names.SEARCH_ATTRIBUTES.values()) - set(known.custom_attributes)
