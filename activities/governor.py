"""What the governor's local activities share: database, ledger, signing key, live stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.exceptions import ApplicationError

from holdfast.actions.run_facts import RunReader
from holdfast.contracts.tiers import PROCESS, Tier
from holdfast.errors import RunUnknown
from holdfast.ledger.service import Ledger
from holdfast.timeline.stream import Publisher

log = structlog.get_logger("governor")


@dataclass(frozen=True, slots=True)
class Governor:
    """Parts that deciding needs. There is no credential of any tool or provider among them.

    Attributes:
        heartbeat_timeout_ms: How long an executor may be silent.
        lease_llm_ms: Lease and hard deadline of a model call.
        lease_tool_ms: Lease and hard deadline of a tool call.
        lease_code_ms: Lease and hard deadline of a run of code, which has a shorter bound of its own.
        tiers: In which code can be run.
        history_events_max: Events of a run's history after which its code is refused calls, and it continues as new.
    """

    engine: AsyncEngine
    ledger: Ledger
    reader: RunReader
    publisher: Publisher
    permit_key: Ed25519PrivateKey
    heartbeat_timeout_ms: int
    lease_llm_ms: int
    lease_tool_ms: int
    lease_code_ms: int
    tiers: tuple[Tier, ...] = field(default=(PROCESS,), kw_only=True)
    history_events_max: int = field(default=30_000, kw_only=True)

    def lease_ms(self, kind: str) -> int:
        """Returns the lease of an action of that kind."""
        return {"llm.call": self.lease_llm_ms, "code.exec": self.lease_code_ms}.get(kind, self.lease_tool_ms)

    async def whose(self) -> tuple[UUID, UUID]:
        """Returns tenant and run of the calling workflow: its id is the run's, and the rest is looked up (rule 5).

        Raises:
            ApplicationError: No admitted run stands behind this workflow; not worth a retry.
        """
        try:
            run_id = UUID(activity.info().workflow_id)
            tenant_id = await self.reader.locate(self.engine, run_id)
        except (ValueError, RunUnknown) as error:
            raise ApplicationError(str(error), type=RunUnknown.code, non_retryable=True) from None
        structlog.contextvars.bind_contextvars(tenant_id=str(tenant_id))
        return tenant_id, run_id

    async def poke(self, tenant_id: UUID, run_id: UUID, seq: int) -> None:
        """Tells followers that the timeline has grown; best effort, they look for themselves, too."""
        if seq:
            await self.publisher.poke(tenant_id, run_id, seq)
