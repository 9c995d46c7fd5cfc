from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from activities.tools.invocation import ToolInvocation
from cli.stack.supervisor import Stack
from demo.refund_desk.world.orders import create_orders
from demo.refund_desk.world.servers import World
from holdfast.tools.registry import find_tool
from holdfast_verdict.canonical import JsonValue

from .live_lease import LiveLease

Invoke = Callable[..., ToolInvocation]


@pytest.fixture
def lease() -> LiveLease:
    return LiveLease()


@pytest.fixture
def invoke(lease: LiveLease) -> Invoke:
    """Makes an invocation the way the system does: from validated arguments."""

    def make(
        tool: str,
        arguments: dict[str, JsonValue],
        credential: dict[str, JsonValue],
        *,
        tenant: str = "acme",
        key: str = "acme:run:1",
    ) -> ToolInvocation:
        definition = find_tool(tool)
        return ToolInvocation(tool, definition, definition.validate(arguments), credential, tenant, key, lease)

    return make


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path / "world") as running:
        yield running


@pytest.fixture(scope="session")
async def superuser_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with Stack(tmp_path_factory.mktemp("stack"), ports="free", parts={"postgres"}) as stack:
        yield stack.superuser_url


@pytest.fixture(scope="session")
async def orders_dsn(superuser_url: str) -> str:
    return await create_orders(superuser_url, "pass'word/@:%")
