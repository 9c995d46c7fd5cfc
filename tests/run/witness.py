"""Every run of a stack is held against Temporal's history, without a test asking for it; what is excused has a reason.

Every executed activity has its permit's allow and a settle, and the other way round.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from holdfast.histories.cross_check import CrossCheck, cross_check
from tests.witnesses import TALLY

SETTLED_WITHIN_S: Final = 60.0
_COMES_RIGHT: Final = frozenset({"witness.not_settled"})
"""What a sweeper puts right: a run may have ended before what it left behind is settled."""


@dataclass(slots=True)
class Witness:
    """Which runs of a stack were held, and which are not to be.

    Attributes:
        held: Runs that have ended and agreed.
        excused: Runs that are not held, each with the reason.
        whole_excused: Why none of the stack's runs is held; empty if they are.
    """

    held: set[UUID] = field(default_factory=set)
    excused: dict[UUID, str] = field(default_factory=dict)
    whole_excused: str = ""

    def excuse(self, run_id: UUID, reason: str) -> None:
        """Lets a run be; a reason is needed, and shown."""
        assert reason.strip(), "say why it is not held"
        self.excused[run_id] = reason

    def excuse_all(self, reason: str) -> None:
        """Lets all runs of the stack be."""
        assert reason.strip(), "say why none is held"
        self.whole_excused = reason
        TALLY.excused.append(f"a whole stack: {reason}")

    async def hold_all(self, database: asyncpg.Pool, engine: AsyncEngine, client: Client) -> None:
        """Holds every run that the database knows, however it was started, once it has ended; one that goes on, as it stands."""
        if self.whole_excused:
            return
        for row in await database.fetch("SELECT tenant_id, run_id FROM runs ORDER BY created_at, run_id"):
            run_id: UUID = row["run_id"]
            if run_id in self.held or run_id in self.excused:
                continue
            checked = await _checked(engine, client, row["tenant_id"], run_id)
            told = "\n".join(f"{one.code}: {one.sentence}" for one in checked.differences)
            assert checked.agrees, f"run {run_id}: history and log do not agree\n{told}"
            if not checked.is_open:
                self.held.add(run_id)
                TALLY.add(1, checked.activities, [])

    def close(self) -> None:
        """Counts what was excused, once it cannot be taken back any more."""
        TALLY.excused += [f"run {run_id}: {reason}" for run_id, reason in self.excused.items()]


async def _checked(engine: AsyncEngine, client: Client, tenant_id: UUID, run_id: UUID) -> CrossCheck:
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        checked = await cross_check(engine, client, tenant_id, run_id)
        codes = {one.code for one in checked.differences}
        if not codes or codes - _COMES_RIGHT or time.monotonic() > deadline:
            return checked
        await asyncio.sleep(0.2)
