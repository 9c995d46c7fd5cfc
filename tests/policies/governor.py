"""`python -m tests.policies.governor`: a process of its own that asks for the decisions named on stdin, all at once, one line each."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

import asyncpg

from tests.ledger.world import Database, Tenant

from .test_past import call, reserve


async def main(given: dict[str, Any]) -> None:  # Any: JSON of the test
    """Asks, and says what came of each as it comes."""
    superuser = await asyncpg.create_pool(given["superuser_url"], min_size=1, max_size=4)
    database = Database(given["urls"], given["superuser_url"], superuser)
    tenant = Tenant(database, UUID(given["tenant_id"]), UUID(given["project_id"]), UUID(given["user_id"]))

    async def ask(run: str, step: int, becomes: int | None) -> None:
        """Asks; with `becomes`, what was allowed costs so much in the end, or comes to nothing at -1."""
        decision = await reserve(tenant, UUID(run), call("pay", amount=2), step, nano_usd=given.get("nano_usd", 0))
        print(decision.code, flush=True)
        if becomes is None or decision.hold_id is None:
            return
        if becomes < 0:
            await tenant.settle(decision.hold_id, "voided")
        else:
            await tenant.executed(await tenant.hold(decision.hold_id))
            await tenant.settle(decision.hold_id, "committed", {"nano_usd": becomes})

    becomes = given.get("becomes") or [None] * len(given["asks"])
    asks = zip(given["asks"], becomes, strict=True)
    await asyncio.gather(*(ask(run, step, each) for (run, step), each in asks))


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
