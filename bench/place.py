"""Where the benchmarks run: an embedded stack in a temporary folder, with a tenant whose agent calls a simulated model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from cli.stack.ports import Ports
from cli.stack.supervisor import ALL_PARTS, Stack
from holdfast.codec import data_converter
from holdfast.database.engine import create_engine, transaction
from holdfast.ids import new_id
from holdfast.ledger.service import set_limit
from holdfast.ledger.types import NANO_USD, Scope
from holdfast.runs.definition import AgentDefinition
from holdfast.runs.versions import put_agent, put_role
from holdfast.settings import read_key_file
from holdfast.tenancy.principals import Principal
from holdfast.tenancy.service import create_project, create_tenant, create_user
from holdfast.vault import Vault

MODEL = "claude-haiku-4-5"
SAY = "All of it is done."
TENANT_LIMIT_NANO_USD = 10**15

# 20 actions: 10 model calls and 10 tool calls (the first answer proposes two)
SCRIPT: Sequence[Mapping[str, object]] = [
    {"tools": [{"tool": "mail.list", "arguments": {}}, {"tool": "mail.list", "arguments": {}}]},
    *[{"tool": "mail.list", "arguments": {}} for _ in range(8)],
    {"say": SAY},
]
ACTIONS = 20
PROMPT = "Look at the inbox until you are done.\n#!script " + json.dumps(SCRIPT)


@dataclass(frozen=True, slots=True)
class Place:
    """A running stack with everything a run needs."""

    stack: Stack
    engine: AsyncEngine
    client: Client
    principal: Principal
    mail_credential: Mapping[str, object]
    provider_credential: Mapping[str, object]


@asynccontextmanager
async def open_place(
    *,
    api: bool = False,
    ports: Ports | Literal["free"] = "free",
    commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AsyncIterator[Place]:
    """Brings up a stack and makes tenant, role, agent, caps and credentials.

    Args:
        api: Whether with the API.
        ports: Its ports.
        commands: Other commands in place of a child's own; see `Stack`.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # noqa: S103, PTH101 (PostgreSQL runs under another account when root calls this)
        (folder / "inbox").mkdir()
        parts = ALL_PARTS - ({"bootstrap"} if api else {"api", "bootstrap"})
        async with Stack(
            folder / "data", ports=ports, parts=parts, provider="simulated", commands=commands, headless=True, say=print
        ) as stack:
            engine = create_engine(stack.database_url("holdfast_api"), process="bench")
            environment = stack.env_for("api")
            client = await Client.connect(
                environment["HOLDFAST_TEMPORAL_ADDRESS"],
                namespace=environment["HOLDFAST_TEMPORAL_NAMESPACE"],
                data_converter=data_converter(read_key_file(Path(environment["HOLDFAST_CODEC_KEY_FILE"]))),
            )
            mail: dict[str, object] = {
                "smtp_host": "127.0.0.1",
                "smtp_port": 25,
                "username": None,
                "password": None,
                "from_address": "desk@acme.example",
                "maildir": str(folder / "inbox"),
            }
            provider: dict[str, object] = {"api_key": "simulated", "base_url": stack.urls.provider, "simulated": True}
            principal = await _seed(stack, engine, mail, provider)
            yield Place(stack, engine, client, principal, mail, provider)
            await engine.dispose()


async def _seed(
    stack: Stack, engine: AsyncEngine, mail: Mapping[str, object], provider: Mapping[str, object]
) -> Principal:
    tenant_id = new_id()
    definition = AgentDefinition.model_validate(
        {
            "role": "reader",
            "instructions": "You read the inbox.",
            "model": {"wire": "anthropic", "name": MODEL},
            "max_tokens": 1_000,
            "tools": ["mail.list"],
            "limits": {"run_cap_nano_usd": 10**12},
        }
    )
    async with transaction(engine, tenant_id) as connection:
        await create_tenant(connection, tenant_id, slug=f"bench-{os.getpid()}", name="Bench")
        project_id = await create_project(connection, tenant_id, "bench")
        user_id = await create_user(connection, tenant_id, "bench")
        await put_role(connection, tenant_id, "reader", "role reader {\n  permit llm.call, mail.list\n}\n")
        await put_agent(connection, tenant_id, "reader", definition)
        await set_limit(
            connection,
            tenant_id,
            Scope("tenant", str(tenant_id)),
            NANO_USD,
            limit_amount=TENANT_LIMIT_NANO_USD,
            unlimited=False,
            actor="bench",
            reason="bench",
        )
    broker_engine = create_engine(stack.database_url("holdfast_broker"), process="bench")
    vault = Vault(read_key_file(stack.folder.secrets / "vault.key"))
    async with transaction(broker_engine, tenant_id) as connection:
        await vault.put(connection, tenant_id, "tool.mail", mail)  # type: ignore[arg-type]  # plain JSON, typed loosely here
        await vault.put(connection, tenant_id, "provider.anthropic", provider)  # type: ignore[arg-type]  # as above
    await broker_engine.dispose()
    return Principal(
        tenant_id=tenant_id,
        tenant=f"bench-{os.getpid()}",
        project_id=project_id,
        project="bench",
        user_id=user_id,
        user="bench",
        key_id=UUID(int=0),
        roles=frozenset({"developer"}),
    )
