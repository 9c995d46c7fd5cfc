"""The supervisor: brings a stack up in order, keeps its children alive, and takes it down in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Literal, Self

from pydantic import JsonValue
from sqlalchemy.engine import make_url

from cli.stack import temporal, valkey
from cli.stack.child import Child, ChildSpec
from cli.stack.data_folder import DataFolder
from cli.stack.environment import PROVIDER_KEYS, Environments, choose_bucket, choose_providers, passed_on
from cli.stack.errors import StackError
from cli.stack.one_shot import run_to_completion
from cli.stack.ports import LOOPBACK, Ports, check_free
from cli.stack.postgres import EmbeddedPostgres
from cli.stack.probe import logs_ready
from cli.stack.secrets import Secrets, load_or_create
from cli.stack.temporal_program import TemporalProgram
from holdfast.database.roles import LOGIN_ROLES, ensure_roles, url_for
from holdfast.settings import ProcessSettings

Part = Literal["postgres", "valkey", "temporal", "migrations", "bootstrap", "provider", "api", "governor", "executor"]

ALL_PARTS: Final[frozenset[Part]] = frozenset(
    {"postgres", "valkey", "temporal", "migrations", "bootstrap", "provider", "api", "governor", "executor"}
)
BASE_PARTS: Final[frozenset[Part]] = frozenset({"postgres", "valkey", "temporal", "migrations"})

_NOTHING: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({})
_NO_COMMANDS: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_STOP_MARGIN_MS = 10_000
"""Beyond a process's grace, for handing back and for saying goodbye."""
_PORT_USERS: Final[Mapping[str, Part]] = MappingProxyType(
    {
        "api": "api",
        "temporal_ui": "temporal",
        "temporal": "temporal",
        "postgres": "postgres",
        "valkey": "valkey",
        "broker": "governor",
        "provider": "provider",
    }
)


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the parts of a stack are reached."""

    api: str
    console: str
    temporal_ui: str
    temporal: str
    broker: str
    provider: str
    redis: str


async def _together(*works: Coroutine[None, None, None]) -> None:
    """Waits for all of them; if one fails, the others are cancelled and have ended when its error is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _stop_timeout_ms(environment: Mapping[str, str]) -> int:
    """Returns how long a process may take to stop: longer than its grace, so that it need not be killed."""
    grace: int = ProcessSettings.model_fields["shutdown_grace_ms"].default
    given = environment.get("HOLDFAST_SHUTDOWN_GRACE_MS", "")
    return (int(given) if given.isdecimal() else grace) + _STOP_MARGIN_MS


def _silent(_: str) -> None:
    pass


class Stack:
    """An embedded stack, as an asynchronous context manager: up inside its block, down after it.

    Args:
        data_dir: The data folder; kept.
        ports: `default`, `free` (picked now), or chosen ones, where 0 means a free one.
        executors: How many executor processes.
        parts: Which parts to run; `BASE_PARTS` for tests that need only servers and schema.
        provider: `auto`, `simulated`, `anthropic` or `openai`.
        brain: `module:function` that answers in the simulated provider, in place of its own.
        extra_env: More environment by process (`governor`, `executor`, `executor-2` …).
        commands: Other commands in place of a child's own, by its name.
        headless: Without Temporal's UI.
        postgres_url: A superuser's URL in place of the embedded PostgreSQL; default `HOLDFAST_POSTGRES`.
        redis_url: A URL in place of the embedded Valkey; default `HOLDFAST_REDIS`.
        say: Gets every line that a person should see.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Ports | Literal["default", "free"] = "default",
        executors: int = 1,
        parts: Collection[Part] = ALL_PARTS,
        provider: str = "auto",
        brain: str = "",
        extra_env: Mapping[str, Mapping[str, str]] = _NOTHING,
        commands: Mapping[str, Sequence[str]] = _NO_COMMANDS,
        headless: bool = False,
        postgres_url: str | None = None,
        redis_url: str | None = None,
        say: Callable[[str], None] = _silent,
    ) -> None:
        self.folder = DataFolder(data_dir)
        self._ports_wish = ports
        self._executors = executors
        self.parts = frozenset(parts)
        self.providers = choose_providers(provider)
        self._brain = brain
        self._extra_env = extra_env
        self._commands = commands
        self._headless = headless
        self._postgres_url = postgres_url or os.environ.get("HOLDFAST_POSTGRES") or None
        self._redis_url = redis_url or os.environ.get("HOLDFAST_REDIS") or None
        self._say = say
        self._children: dict[str, Child] = {}
        self._layers: list[list[Child]] = []
        self._postgres: EmbeddedPostgres | None = None
        self._superuser_url = ""
        self._environments: Environments | None = None
        self._started_at = datetime.now(UTC)
        self._up = False
        self._state_is_stale = False

    async def __aenter__(self) -> Self:
        """Starts everything; if that fails, what was started is stopped again."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops everything."""
        await self.stop()

    @property
    def ports(self) -> Ports:
        """The ports in use."""
        return self._chosen.ports

    @property
    def secrets(self) -> Secrets:
        """The keys and passwords of this data folder."""
        return self._chosen.secrets

    @property
    def superuser_url(self) -> str:
        """PostgreSQL as its superuser, for tests and administration."""
        return self._superuser_url

    @property
    def simulated(self) -> bool:
        """Whether the simulated provider thinks."""
        return "simulated" in self.providers

    @property
    def urls(self) -> Urls:
        """Where the parts are reached."""
        ports = self.ports
        return Urls(
            api=f"http://{LOOPBACK}:{ports.api}",
            console=f"http://{LOOPBACK}:{ports.api}/",
            temporal_ui="" if self._headless else f"http://{LOOPBACK}:{ports.temporal_ui}",
            temporal=f"{LOOPBACK}:{ports.temporal}",
            broker=f"http://{LOOPBACK}:{ports.broker}",
            provider=f"http://{LOOPBACK}:{ports.provider}",
            redis=self._chosen.redis_url,
        )

    def database_url(self, role: str) -> str:
        """Returns the database's URL for a role such as `holdfast_api`."""
        return self._chosen.database_urls[role]

    def env_for(self, process: str) -> dict[str, str]:
        """Returns the `HOLDFAST_…` variables that a process gets, for code that plays its part."""
        kind = process.rpartition("-")[0]
        return {**self._chosen.of(process), **self._extra_env.get(kind, {}), **self._extra_env.get(process, {})}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all children, in order of their start."""
        return tuple(self._children)

    def child(self, name: str) -> Child:
        """Returns a child by its name.

        Raises:
            StackError: There is none of that name.
        """
        try:
            return self._children[name]
        except KeyError:
            raise StackError(f"no child is called {name}; there are {', '.join(self._children) or 'none'}") from None

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, restart: bool = True) -> None:
        """Sends a child a signal; after SIGKILL it is gone when this returns. With `restart` it is started again."""
        await self.child(name).kill(number, restart=restart)

    async def stop_child(self, name: str) -> None:
        """Stops a child gracefully; it stays down."""
        await self.child(name).stop()

    async def start_child(self, name: str) -> None:
        """Starts a child that is down, and returns when it is ready."""
        await self.child(name).start()

    async def wait_ready(self, name: str, *, timeout_ms: int = 120_000) -> None:
        """Waits until a child is ready.

        Raises:
            StackError: It is not within the bound.
        """
        try:
            await asyncio.wait_for(self.child(name).wait_ready(), timeout_ms / 1000)
        except TimeoutError:
            raise StackError(f"{name} was not ready within {timeout_ms / 1000:g} s") from None

    async def start(self) -> None:
        """Starts all parts in order and returns when they are ready.

        Raises:
            StackError: A part could not be started; all of them are stopped again.
        """
        self.folder.create()
        with self.folder.explained():
            self.folder.lock()
        try:
            self.folder.check_space()
            with self.folder.explained():
                self._choose()
                self.folder.write_state(self._state())
            await self._start_servers()
            await self._start_processes()
        except BaseException:
            await self.stop()
            raise
        self._up = True
        self._write_state()

    async def stop(self, *, timeout_ms: int | None = None) -> None:
        """Stops all children in reverse order.

        Args:
            timeout_ms: A bound for each in place of its own; 0 kills.
        """
        self._up = False
        for layer in reversed(self._layers):
            await asyncio.gather(*(child.stop(timeout_ms=timeout_ms) for child in layer))
            for child in layer:
                self._say(f"{child.spec.name} has stopped")
        self._layers.clear()
        if self._postgres is not None:
            self._postgres.forget()
        if self._environments is not None:
            self._write_state()
        self.folder.unlock()

    def kill_all(self) -> None:
        """Kills every child at once, for whoever will not wait; `stop` still has to be awaited."""
        for child in self._children.values():
            child.kill_now()

    @property
    def _chosen(self) -> Environments:
        if self._environments is None:
            raise StackError("the stack was not started")
        return self._environments

    def _choose(self) -> None:
        """Settles ports, secrets and URLs before anything is started."""
        wish = self._ports_wish
        ports = Ports() if wish == "default" else Ports.free() if wish == "free" else wish.with_free()
        embedded = {"postgres": self._postgres_url is None, "valkey": self._redis_url is None}
        simulated_wanted = "provider" in self.parts and self.simulated
        used = {part for part in self.parts if embedded.get(part, True) and (part != "provider" or simulated_wanted)}
        names = [name for name, part in _PORT_USERS.items() if part in used]
        if self._headless and "temporal_ui" in names:
            names.remove("temporal_ui")
        check_free(ports, names)
        data_exists = (self.folder.postgres / "data" / "PG_VERSION").exists() or self.folder.state_file.exists()
        secrets = load_or_create(self.folder.secrets, data_exists=data_exists)
        if self._postgres_url is None:
            self._postgres = EmbeddedPostgres(self.folder, ports.postgres, secrets.database_passwords["postgres"])
            self._superuser_url = self._postgres.superuser_url
            server_url = f"postgresql://{LOOPBACK}:{ports.postgres}"
        else:
            self._superuser_url = server_url = self._postgres_url
        passwords = secrets.database_passwords
        self._environments = Environments(
            ports=ports,
            secrets=secrets,
            database_urls={role: url_for(server_url, role, passwords[role]) for role in LOGIN_ROLES},
            redis_url=self._redis_url or valkey.url(ports.valkey, secrets.valkey_password),
            providers=self.providers,
            headless=self._headless,
            objects=self.folder.objects,
            bucket=choose_bucket(),
        )

    async def _start_servers(self) -> None:
        """Starts Valkey and Temporal, and meanwhile PostgreSQL, whose schema takes a while."""
        program = await TemporalProgram(say=self._say).find() if "temporal" in self.parts else None
        specs: list[ChildSpec] = []
        if "valkey" in self.parts and self._redis_url is None:
            specs.append(valkey.prepare(self.folder, self.ports.valkey, self.secrets.valkey_password))
        if program is not None:
            specs.append(temporal.prepare(self.folder, program, self.ports, headless=self._headless))
        await _together(self._start_children(specs), self._start_database())

    async def _start_database(self) -> None:
        """Starts PostgreSQL and brings its data up to date."""
        if "postgres" in self.parts and self._postgres is not None:
            if not (self.folder.postgres / "data").exists():
                self._say("making a new PostgreSQL cluster")
            preparing = asyncio.create_task(asyncio.to_thread(self._postgres.prepare))
            try:
                spec = await asyncio.shield(preparing)
            except asyncio.CancelledError:
                await preparing  # a thread cannot be cancelled: initdb ends before the lock is given up
                raise
            await self._start_children([spec])
        await self._prepare_data()

    async def _prepare_data(self) -> None:
        """Makes roles and database, brings the schema up to date, seeds the first tenant."""
        if "postgres" in self.parts:
            await ensure_roles(self._superuser_url, self.secrets.database_passwords)
        if self._postgres_url is not None:
            self._say(f"PostgreSQL is {make_url(self._postgres_url).render_as_string()}")
        if "migrations" in self.parts:
            await self._run("migrations", [sys.executable, "-m", "holdfast.database.migrate"], {}, say=self._say)
        if "bootstrap" in self.parts:
            keys = {key: os.environ[key] for key in PROVIDER_KEYS.values() if os.environ.get(key)}
            await self._run("bootstrap", [sys.executable, "-m", "holdfast.tenancy.bootstrap"], keys)

    async def _start_processes(self) -> None:
        """Starts the processes of Holdfast itself, all at once: each waits for what it calls when it calls it."""
        layers: list[list[ChildSpec]] = []
        if "provider" in self.parts and self.simulated:
            argv = [sys.executable, "-m", "cli.simulated_provider", "--port", str(self.ports.provider)]
            layers.append([self._process("provider", [*argv, "--brain", self._brain] if self._brain else argv)])
        for part, module in (("governor", "workers.embedded"), ("executor", "workers.executor"), ("api", "api")):
            if part in self.parts:
                names = [f"executor-{n + 1}" for n in range(self._executors)] if part == "executor" else [part]
                layers.append([self._process(name, [sys.executable, "-m", module]) for name in names])
        await self._start_children(*layers)

    def _process(self, name: str, argv: Sequence[str]) -> ChildSpec:
        return ChildSpec(
            name=name,
            argv=self._commands.get(name, argv),
            env=self._process_env(name),
            log_path=self.folder.logs / f"{name}.log",
            ready=logs_ready(),
            stop_timeout_ms=_stop_timeout_ms(self._process_env(name)),
        )

    def _process_env(self, name: str) -> dict[str, str]:
        return {**passed_on(os.environ), "PYTHONUNBUFFERED": "1", **self.env_for(name)}

    async def _start_children(self, *layers: Sequence[ChildSpec]) -> None:
        """Starts children together; each layer is stopped before the one in front of it."""
        made = [[Child(spec, self._say, self._write_state) for spec in layer] for layer in layers]
        children = [child for layer in made for child in layer]
        self._layers += made
        self._children |= {child.spec.name: child for child in children}
        await _together(*(self._start_child(child) for child in children))

    async def _start_child(self, child: Child) -> None:
        began = time.monotonic()
        await child.start()
        self._say(f"{child.spec.name} is ready ({time.monotonic() - began:.1f} s, process {child.pid})")

    async def _run(
        self, name: str, argv: Sequence[str], more_env: Mapping[str, str], *, say: Callable[[str], None] | None = None
    ) -> None:
        command = self._commands.get(name, argv)
        env = {**self._process_env(name), **more_env}
        await run_to_completion(name, command, env, self.folder.logs / f"{name}.log", say=say)

    def _write_state(self) -> None:
        """Stores what `holdfast status` shows. A disk that is full must not keep children from being supervised."""
        try:
            self.folder.write_state(self._state())
        except OSError as error:
            if not self._state_is_stale:
                self._say(f"cannot write {self.folder.state_file}: {error.strerror}; `holdfast status` shows what was")
            self._state_is_stale = True
        else:
            self._state_is_stale = False

    def _state(self) -> dict[str, JsonValue]:
        """Returns what `holdfast status` shows. Everybody who can enter the folder may read it: no URL has a password."""
        children: list[JsonValue] = [
            {
                "name": name,
                "state": child.state,
                "pid": child.pid,
                "restarts": child.restarts,
                "since": child.since.isoformat(),
            }
            for name, child in self._children.items()
        ]
        owners = {"console": "api", **_PORT_USERS}
        urls: dict[str, JsonValue] = {
            name: url for name, url in asdict(self.urls).items() if owners.get(name) in self.parts
        }
        return {
            "pid": os.getpid(),
            "ready": self._up,
            "started_at": self._started_at.isoformat(),
            "ports": asdict(self.ports),
            "urls": urls,
            "providers": list(self.providers),
            "bootstrap_key_file": str(self.secrets.bootstrap_key_file),
            "children": children,
        }
