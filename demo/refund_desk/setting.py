"""Sets the stage: the stack, the outside world, two tenants with their keys, caps, credentials, rules and the agent."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from temporalio.client import Client

from cli.stack.data_folder import write_atomically
from cli.stack.environment import PROVIDER_KEYS
from cli.stack.supervisor import Stack, Urls
from cli.stack.temporal import NAMESPACE
from demo.refund_desk import policy
from demo.refund_desk.world.orders import create_orders
from demo.refund_desk.world.servers import World
from holdfast.codec import data_converter
from holdfast.settings import read_key_file
from holdfast_verdict.canonical import JsonValue
from sdk import Holdfast

BRAIN: Final = "demo.refund_desk.brain:respond"
EXECUTORS: Final = 2
_CAP_USD: Final = "5"
_MODELS: Final = {"anthropic": "claude-haiku-4-5", "openai": "gpt-4.1-mini"}
# How long an executor may be silent before it counts as dead: short, for here it is waited for, and longer than a busy machine keeps a
# living one from being heard.
HEARTBEAT_TIMEOUT_MS: Final = "6000"


@dataclass(frozen=True, slots=True)
class Model:
    """Who thinks."""

    wire: str
    name: str
    credential: dict[str, JsonValue]
    simulated: bool

    @property
    def said(self) -> str:
        """How output speaks of it."""
        return f"simulated {self.name}" if self.simulated else f"{self.wire} {self.name}"


@dataclass(frozen=True, slots=True)
class People:
    """Clients with the keys of those who take part."""

    owner: Holdfast
    desk: Holdfast
    approver: Holdfast
    neighbour: Holdfast

    def close(self) -> None:
        """Closes all connections."""
        for client in (self.owner, self.desk, self.approver, self.neighbour):
            client.close()


@dataclass(frozen=True, slots=True)
class Installation:
    """The Holdfast that the story plays on, wherever it runs.

    Attributes:
        urls: Where its parts are reached.
        simulated: Whether the simulated provider thinks, with the demo's brain.
        keys_folder: Where the keys of those who take part are kept.
        operator_key_file: The first keys, as the bootstrap wrote them.
        codec_key_file: Key of the payload codec.
        shop_superuser_url: A PostgreSQL server for the shop, which is no part of Holdfast.
        auditor_database_url: Holdfast's database as its auditor.
        pid: Process id of a process such as `executor-2`.
        kill: Kills a process with -9; it is started again.
    """

    urls: Urls
    simulated: bool
    keys_folder: Path
    operator_key_file: Path
    codec_key_file: Path
    shop_superuser_url: str
    auditor_database_url: str
    pid: Callable[[str], int | None]
    kill: Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that the story plays in."""

    installation: Installation
    world: World
    people: People
    model: Model
    temporal: Client
    codec_key: bytes
    provider: httpx.AsyncClient

    def ui_of(self, run_id: str) -> str:
        """Returns the run's address in Temporal's UI."""
        return f"{self.installation.urls.temporal_ui}/namespaces/{NAMESPACE}/workflows/{run_id}"


def choose_wire() -> str:
    """Returns whose key is in the environment, or an empty text."""
    return next((wire for wire, variable in PROVIDER_KEYS.items() if os.environ.get(variable)), "")


def _model(installation: Installation, wire: str) -> Model:
    if installation.simulated:
        base_url = installation.urls.provider
        credential: dict[str, JsonValue] = {"api_key": "simulated", "base_url": base_url, "simulated": True}
        return Model("anthropic", _MODELS["anthropic"], credential, simulated=True)
    name = os.environ.get("HOLDFAST_DEMO_MODEL") or _MODELS[wire]
    key = os.environ[PROVIDER_KEYS[wire]]
    return Model(wire, name, {"api_key": key, "base_url": None, "simulated": False}, simulated=False)


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    folder.chmod(0o755)  # for root, PostgreSQL runs under another account; what lies inside is closed to it
    return folder


def embedded(stack: Stack) -> Installation:
    """Returns an embedded stack as the place of the story."""
    keys = stack.folder.path / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    return Installation(
        urls=stack.urls,
        simulated=stack.simulated,
        keys_folder=keys,
        operator_key_file=stack.secrets.bootstrap_key_file,
        codec_key_file=stack.secrets.codec_key_file,
        shop_superuser_url=stack.superuser_url,
        auditor_database_url=stack.database_url("holdfast_auditor"),
        pid=lambda name: stack.child(name).pid,
        kill=lambda name: stack.kill(name, signal.SIGKILL),
    )


@asynccontextmanager
async def move_in(
    installation: Installation, world_folder: Path, say: Callable[[str], None], *, wire: str = ""
) -> AsyncIterator[Setting]:
    """Puts the world beside an installation, and both tenants into it.

    Args:
        installation: The Holdfast that the story plays on.
        world_folder: Where mails and payments are kept.
        say: Gets every line that a person should see.
        wire: Whose real model thinks, if any.
    """
    async with (
        World(world_folder) as world,
        httpx.AsyncClient(base_url=installation.urls.provider, trust_env=False) as provider,
    ):
        say("a mail server, a payments service and a shop with the orders of two tenants stand beside it")
        model = _model(installation, wire)
        orders_dsn = await create_orders(installation.shop_superuser_url, secrets.token_urlsafe(24))
        people = await asyncio.to_thread(_make_tenants, installation, world, model, orders_dsn)
        say(f"tenants {policy.TENANT} and {policy.NEIGHBOUR} have moved in: keys, caps, credentials, rules, the agent")
        codec_key = read_key_file(installation.codec_key_file)
        temporal = await Client.connect(
            installation.urls.temporal, namespace=NAMESPACE, data_converter=data_converter(codec_key)
        )
        try:
            yield Setting(installation, world, people, model, temporal, codec_key, provider)
        finally:
            people.close()


def sandbox_profile() -> str:
    """Returns how code is run: an ordinary account has no other accounts to give to jobs, and for a demo that will do."""
    return "full" if os.geteuid() == 0 else "unprivileged"


@asynccontextmanager
async def set_up(say: Callable[[str], None]) -> AsyncIterator[Setting]:
    """Brings everything up in a temporary folder; afterwards nothing of it is left."""
    wire = choose_wire()
    folder = _make_folder()
    try:
        async with Stack(
            folder / "data",
            ports="free",
            executors=EXECUTORS,
            provider=wire or "simulated",
            brain=BRAIN,
            extra_env={
                "governor": {"HOLDFAST_HEARTBEAT_TIMEOUT_MS": HEARTBEAT_TIMEOUT_MS},
                "executor": {"HOLDFAST_SANDBOX_PROFILE": sandbox_profile()},
            },
            say=say,
        ) as stack:
            try:
                async with move_in(embedded(stack), folder / "world", say, wire=wire) as setting:
                    yield setting
            finally:
                stack.kill_all()  # its data is thrown away, so nobody has to put it in order first
    except Exception:
        kept = Path(tempfile.mkdtemp(prefix="holdfast-demo-logs-"))
        shutil.copytree(folder / "data" / "logs", kept, dirs_exist_ok=True)
        say(f"the logs of all processes are kept in {kept}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_tenants(installation: Installation, world: World, model: Model, orders_dsn: str) -> People:
    """Makes both tenants over the API, as any operator and owner would."""
    url, keys = installation.urls.api, installation.keys_folder

    def keep(name: str, key: str) -> Holdfast:
        write_atomically(keys / f"{name}.key", key + "\n")
        return Holdfast(url, key)

    with Holdfast(
        url, json.loads(installation.operator_key_file.read_text(encoding="utf-8"))["operator_key"]
    ) as operator:
        acme, globex = (operator.create_tenant(slug, slug.title()) for slug in (policy.TENANT, policy.NEIGHBOUR))
    owner = keep("acme-owner", acme.key.key)
    neighbour = keep("globex-owner", globex.key.key)
    for name in ("desk", "alice"):
        owner.create_user(name)
    desk = keep("acme-desk", owner.create_key("desk", "default", ["developer"]).key)
    approver = keep("acme-alice", owner.create_key("alice", "default", [policy.APPROVER]).key)
    owner.set_cap("tenant", limit_usd=_CAP_USD, reason="the demo's budget")
    credentials: dict[str, dict[str, JsonValue]] = {
        f"provider.{model.wire}": model.credential,
        **world.credentials(),
        "tool.orders": {"dsn": orders_dsn},
    }
    for name, credential in credentials.items():
        owner.put_credential(name, credential)
    owner.put_role(policy.ROLE, policy=policy.RULES)
    owner.put_agent(policy.AGENT, policy.agent(model.wire, model.name))
    return People(owner, desk, approver, neighbour)
