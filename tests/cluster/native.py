"""compose.yaml without containers: each service's own command, with its own settings, as a process of this machine.

What a container would give is translated: names of services to loopback, ports to free ones, volumes and configs to folders. Nothing
else is changed but what is listed in `_BECAUSE_NATIVE`. An account of its own for each service, confinement and networks are not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cli.stack.account import Account, choose_account, launch_command, own_account
from cli.stack.child import Child, ChildSpec
from cli.stack.errors import ChildFailed
from cli.stack.log_file import LogFile
from cli.stack.one_shot import run_to_completion
from cli.stack.ports import LOOPBACK, Ports
from cli.stack.probe import Probe, logs_ready
from cli.stack.supervisor import Urls
from tests.deployment.composition import compose, environment, mounts, services
from tests.stack.places import ROOT

from .image import build
from .programs import postgres_home, programs_folder

Node = Any  # what YAML holds has no types

_OPEN: Final = frozenset({"secrets-postgres", "secrets-redis", "secrets-temporal", "postgres-socket"})
"""Volumes whose folder in the image is not closed: programs of other accounts enter them."""
_SEVERAL: Final = ("governor", "executor")
_SOCKET: Final = "/var/run/postgresql"
_HEALTH_TIMEOUT_S: Final = 10
_READY_TIMEOUT_MS: Final = 180_000
_INITDB_TIMEOUT_S: Final = 120


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        ports = Ports.free()
        found += [
            port
            for port in (ports.api, ports.temporal, ports.postgres, ports.valkey, ports.broker)
            if port not in found
        ]
    return found[:count]


class Cluster:
    """The services of compose.yaml as processes, as an asynchronous context manager.

    Args:
        folder: Where everything of it lies; its path has to be short, for a Unix socket is inside.
        environ: Values for the variables of compose.yaml.
        profiles: Which of its profiles are on.
        more_arguments: Arguments to add to a service's command.
        say: Gets every line that a person should see.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environ: Mapping[str, str],
        profiles: Sequence[str] = (),
        more_arguments: Mapping[str, Sequence[str]] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        self.services = services(environ)
        self._started = [
            name for name, service in self.services.items() if set(service.get("profiles", profiles)) <= set(profiles)
        ]
        self.children: dict[str, Child] = {}
        self.steps: list[str] = []
        self._more_arguments = more_arguments or {}
        self._say = say
        self._programs = folder / "bin"
        numbers = (5432, 6379, 7233, 8080, 8081, 8082, 8233)
        parts = ("FRONTEND", "MATCHING", "HISTORY", "WORKER")
        names = [*(f"{part}_MEMBERSHIP_PORT" for part in parts), *(f"{part}_GRPC_PORT" for part in parts[1:])]
        names.append("FRONTEND_HTTP_PORT")
        free = _free_ports(len(numbers) + len(names))
        self.ports = dict(zip(numbers, free, strict=False))
        self._temporal_ports = {name: str(port) for name, port in zip(names, free[len(numbers) :], strict=True)}

    async def __aenter__(self) -> Cluster:
        """Starts everything in the order that compose.yaml asks for; if that fails, what was started is stopped again."""
        try:
            await self.prepare()
            for name in self._order():
                await self.start(name)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops everything."""
        await self.stop()

    async def prepare(self) -> None:
        """Makes folders and programs; nothing runs yet."""
        self._lay_out()
        self._say("building the image's environment")
        image = await asyncio.to_thread(build, self.folder / "image")
        await programs_folder(self._programs, image, self._say)

    @property
    def urls(self) -> Urls:
        """Where its parts are reached."""
        return Urls(
            api=f"http://{LOOPBACK}:{self.ports[8080]}",
            console=f"http://{LOOPBACK}:{self.ports[8080]}/",
            temporal_ui=f"http://{LOOPBACK}:{self.ports[8233]}",
            temporal=f"{LOOPBACK}:{self.ports[7233]}",
            broker=f"http://{LOOPBACK}:{self.ports[8081]}",
            provider=f"http://{LOOPBACK}:{self.ports[8082]}",
            redis="",
        )

    @property
    def logs(self) -> Path:
        """Where the logs of all services are."""
        return self.folder / "logs"

    def volume(self, name: str) -> Path:
        """Returns the folder that takes the place of a volume."""
        return self.folder / "volumes" / name

    def secret(self, process: str, name: str) -> Path:
        """Returns the file of a process's secret."""
        return self.volume(f"secrets-{process}") / name

    def pid(self, name: str) -> int | None:
        """Returns a process id; of `governor` that of the first."""
        return self.children[name if name in self.children else f"{name}-1"].pid

    async def kill(self, name: str) -> None:
        """Kills a process with -9, or all replicas of a service; each is started again."""
        found = [child for own, child in self.children.items() if own == name or own.rpartition("-")[0] == name]
        await asyncio.gather(*(child.kill(signal.SIGKILL, restart=True) for child in found))

    async def stop(self) -> None:
        """Stops all processes, those that others wait for last."""
        for name in reversed(self._order()):
            found = [child for own, child in self.children.items() if own == name or own.rpartition("-")[0] == name]
            await asyncio.gather(*(child.stop() for child in found))

    async def restart(self) -> None:
        """Stops everything and starts it again, as `docker compose down` and `up` do."""
        await self.stop()
        self.children.clear()
        self.steps.clear()
        for name in self._order():
            await self.start(name)

    async def start(self, name: str) -> None:
        """Runs a step to its end, or starts a server with all its replicas and waits until they are well."""
        service = self.services[name]
        if service["restart"].startswith("on-failure"):
            await run_to_completion(name, self.argv(name), self.env(name), self.logs / f"{name}.log")
            self.steps.append(name)
            self._say(f"{name} has ended with code 0")
            return
        if name == "postgres":
            await asyncio.to_thread(self._make_database_cluster)
        replicas = int(service.get("deploy", {}).get("replicas", 1))
        names = [f"{name}-{number + 1}" for number in range(replicas)] if name in _SEVERAL else [name]
        made = {own: Child(self._spec(name, own), self._say, lambda: None) for own in names}
        self.children |= made
        await asyncio.gather(*(child.start() for child in made.values()))
        self._say(f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} well")

    # Translation --------------------------------------------------------------------------------------------------

    def argv(self, name: str) -> list[str]:
        """Returns a service's command, as this machine runs it."""
        service = self.services[name]
        words = [*service.get("entrypoint", []), *service.get("command", []), *self._more_arguments.get(name, ())]
        if name == "temporal-ui":  # what its image does
            assert not words
            words = ["temporal-ui-server", "--root", str(self._programs / "ui"), "--env", "docker", "start"]
        argv = [self._translated(name, str(word)) for word in words]
        argv[0] = argv[0] if argv[0].startswith("/") else str(self._programs / argv[0])
        return [*argv, *self._because_native(name)]

    def env(self, name: str) -> dict[str, str]:
        """Returns the whole environment of a service, as this machine runs it: of the caller's only PATH-like things."""
        own = {key: self._translated(name, value, key) for key, value in environment(self.services[name]).items()}
        base = {"PATH": f"{self._programs}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if self.services[name]["image"].startswith("holdfast:"):
            # nothing from the folder that this was started in: only what the image has; of the demo its brain
            base |= {"HOME": "/nonexistent", "PYTHONSAFEPATH": "1"}
            base |= {"PYTHONPATH": str(ROOT)} if name == "provider" else {}
        return {**base, **own, **self._more_environment(name)}

    def _because_native(self, name: str) -> list[str]:
        """Arguments that a container needs not: its program listens on an address and a port of its own."""
        if name == "postgres":
            socket = f"{self._root(name)}{_SOCKET}"
            settings = {
                "listen_addresses": LOOPBACK,
                "port": str(self.ports[5432]),
                "unix_socket_directories": socket,
            }
            return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ["--bind", LOOPBACK] if name == "redis" else []

    def _more_environment(self, name: str) -> dict[str, str]:
        """Variables that a container needs not."""
        if name == "postgres":
            return {"PGDATA": str(self._root(name) / "var/lib/postgresql/data")}
        if name == "temporal":
            return {**self._temporal_ports, "TEMPORAL_BROADCAST_ADDRESS": LOOPBACK}
        return {}

    def _translated(self, name: str, text: str, key: str = "") -> str:
        """Puts loopback, free ports and folders into one word of a service."""
        if key in ("SQL_HOST", "POSTGRES_SEEDS"):
            return LOOPBACK
        if name == "secrets" and text == _SOCKET:  # where another service will find it
            return str(self.volume("postgres-socket"))
        hosts = "|".join(sorted(services(), key=len, reverse=True))
        text = re.sub(rf"(?<![\w.-])(?:{hosts})(?=:\d)", LOOPBACK, text).replace("0.0.0.0", LOOPBACK)
        numbers = "|".join(map(str, self.ports))
        text = re.sub(rf"(?<![\d.])(?:{numbers})(?!\d)", lambda match: str(self.ports[int(match[0])]), text)
        for target in self._targets(name):
            if text == target or text.startswith(f"{target}/") or target.startswith(f"{text}/"):
                return str(self._root(name)) + text if text.startswith("/") else text
            text = text.replace(f"={target}", f"={self._root(name)}{target}")
        return text

    def _targets(self, name: str) -> list[str]:
        service = self.services[name]
        configs = [config["target"] for config in service.get("configs", [])]
        return [*(target for _, target, _ in mounts(service)), *configs]

    def _root(self, name: str) -> Path:
        return self.folder / "roots" / name

    def _lay_out(self) -> None:
        """Makes folders for volumes, and for each service a root in which they are where the container has them."""
        self.logs.mkdir(parents=True)
        for volume in compose()["volumes"]:
            self.volume(volume).mkdir(parents=True, mode=0o755)
            self.volume(volume).chmod(0o755 if volume in _OPEN else 0o700)
        for name, service in self.services.items():
            links = {target: self.volume(volume) for volume, target, _ in mounts(service)}
            for config in service.get("configs", []):
                links[config["target"]] = ROOT / compose()["configs"][config["source"]]["file"]
            for target, source in links.items():
                link = Path(f"{self._root(name)}{target}")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)

    def _order(self) -> list[str]:
        """Returns the services in an order in which each comes after all that it waits for."""
        ordered: list[str] = []

        def visit(name: str) -> None:
            for other in self.services[name].get("depends_on", {}):
                visit(other)
            if name not in ordered:
                ordered.append(name)

        for name in self._started:
            visit(name)
        return ordered

    # Processes ----------------------------------------------------------------------------------------------------

    def _spec(self, name: str, own: str) -> ChildSpec:
        service = self.services[name]
        stop = {"SIGINT": signal.SIGINT}.get(service.get("stop_signal", ""), signal.SIGTERM)
        return ChildSpec(
            name=own,
            argv=self.argv(name),
            env=self.env(name),
            log_path=self.logs / f"{own}.log",
            ready=self._well(name) if "healthcheck" in service else logs_ready(),
            account=self._account() if name == "postgres" else own_account(),
            stop_signal=stop,
            stop_timeout_ms=int(str(service.get("stop_grace_period", "10s")).rstrip("s")) * 1_000,
            ready_timeout_ms=_READY_TIMEOUT_MS,
        )

    def _well(self, name: str) -> Probe:
        """The service's own health check."""
        kind, *words = map(str, self.services[name]["healthcheck"]["test"])
        translated = [self._translated(name, word) for word in words]
        argv = ["/bin/sh", "-c", *translated] if kind == "CMD-SHELL" else translated
        argv[0] = argv[0] if argv[0].startswith("/") else str(self._programs / argv[0])
        env = self.env(name)

        async def probe(_: LogFile) -> bool:
            process = await asyncio.create_subprocess_exec(
                *argv, env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            try:
                return await asyncio.wait_for(process.wait(), _HEALTH_TIMEOUT_S) == 0
            except TimeoutError:
                return False
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

        return probe

    def _account(self) -> Account:
        """PostgreSQL refuses root, so root finds it another account, whose the data is."""
        account = choose_account(postgres_home() / "postgres", self.volume("postgres-data"))
        if account.uid != os.geteuid():
            os.chown(self.volume("postgres-socket"), account.uid, account.gid)
        return account

    def _make_database_cluster(self) -> None:
        """Does what the image's entry point does at the first start: `initdb` with the service's own settings."""
        env = self.env("postgres")
        if (Path(env["PGDATA"]) / "PG_VERSION").exists():
            return
        argv = [
            str(self._programs / "initdb"),
            f"--pgdata={env['PGDATA']}",
            "--username=postgres",
            f"--pwfile={env['POSTGRES_PASSWORD_FILE']}",
            *shlex.split(env["POSTGRES_INITDB_ARGS"]),
        ]
        done = subprocess.run(
            launch_command(self._account(), argv, folder=None, death_signal=signal.SIGKILL),
            env=env,
            capture_output=True,
            text=True,
            timeout=_INITDB_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ChildFailed(f"initdb failed with code {done.returncode}:\n{done.stdout}{done.stderr}")
