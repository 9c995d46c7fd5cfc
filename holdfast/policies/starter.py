"""What a new tenant begins with: a policy that makes it safe and usable before anybody has written one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from holdfast.policies import store
from holdfast_verdict import Policy, compile_policy

STARTER_ROLE: Final = "assistant"


@cache
def starter_text() -> str:
    """Returns the starter policy's text."""
    return Path(__file__).with_name("starter.policy").read_text(encoding="utf-8")


@cache
def starter_policy() -> Policy:
    """Returns what the starter policy compiles to."""
    return compile_policy(starter_text(), file="starter.policy")


def begins_with_starter(source: str) -> bool:
    """Says whether a text is the starter policy, or what was made of it and of what roles say."""
    return source.startswith(starter_text().split("\n", 1)[0])


async def give(connection: AsyncConnection, tenant_id: UUID, *, by: str) -> None:
    """Makes the starter policy the first and active one of a new tenant, in the transaction that makes the tenant."""
    stored = await store.put(
        connection, tenant_id, starter_text(), starter_policy(), put_by=by, note="the starter policy", origin="starter"
    )
    await store.activate(connection, tenant_id, stored.policy_id, by=by, reason="a new tenant")
