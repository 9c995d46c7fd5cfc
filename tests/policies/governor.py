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

    async def ask(run: str, step: int) -> None:
        decision = await reserve(tenant, UUID(run), call("pay", amount=2), step)
        print(decision.code, flush=True)

    await asyncio.gather(*(ask(run, step) for run, step in given["asks"]))


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
